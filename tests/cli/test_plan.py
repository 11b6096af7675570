"""`myriarch plan` and `myriarch walls`, as a user types them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from myriarch.cli.app import run
from myriarch.cli.schema import document

Command = Callable[..., "subprocess.CompletedProcess[str]"]
EXAMPLES = Path(__file__).parents[2] / "examples" / "plan"
SMALL = ("--model", "llama-3.1-8b", "--fleet", "h100-sxm:64", "--tokens", "1T", "--batch", "512")


@pytest.fixture
def myriarch(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line in this process: what the verbs share with all others is tested with real processes."""

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        code = run(list(words))
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, said.out, said.err)

    return command


def answer(done: subprocess.CompletedProcess[str], *, code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    made = json.loads(done.stdout)
    jsonschema.validate(made, document("plan"))
    return made


def test_json_follows_its_schema_and_its_numbers_agree(myriarch: Command) -> None:
    made = answer(myriarch("plan", *SMALL, "--json"))
    best, question = made["plans"][0], made["question"]
    group = best["groups"][0]
    layout = group["layout"]
    assert layout["tp"] * layout["pp"] * layout["cp"] * layout["dp"] == best["devices"] <= 64
    assert layout["dp"] * layout["micro_batch"] * layout["micro_batches"] == 512
    assert sum(group["breakdown_s"].values()) == pytest.approx(best["step_s"])
    assert best["tokens_per_s"] == pytest.approx(512 * 8192 / best["step_s"])
    assert best["steps"] == pytest.approx(1e12 / (512 * 8192), abs=1)
    factors = best["effective"]
    product = factors["availability"] * factors["scheduling"] * factors["fault_handling"] * factors["compute"]
    assert factors["effective"] == pytest.approx(product)
    assert factors["compute"] == pytest.approx(best["mfu"])
    assert best["days"] >= best["steps"] * best["step_s"] / 86_400
    assert best["step_interval80_s"][0] < best["step_s"] < best["step_interval80_s"][1]
    assert all(stage["total_bytes"] <= group["capacity_bytes"] for stage in group["memory"])
    assert max(stage["total_bytes"] for stage in group["memory"]) == pytest.approx(group["memory_bytes"])
    for stage in group["memory"]:
        assert sum(stage["by_kind"].values()) == pytest.approx(stage["total_bytes"])
    steps = [plan["step_s"] for plan in made["plans"]]
    assert steps == sorted(steps)
    assert [plan["rank"] for plan in made["plans"]] == [1, 2, 3, 4, 5]
    assert all(plan["why"] for plan in made["plans"])
    assert best["why_not_next"]
    assert made["counts"]["plans"] == sum(made["counts"][name] for name in ("timed", "infeasible", "slower"))
    assert question["assumed"] == []


def test_people_get_the_plans_and_the_best_in_full(myriarch: Command) -> None:
    done = myriarch("plan", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("MFU", "products", "spare nodes", "least time of", "not the next"):
        assert word in done.stdout
    assert "有效算力" in myriarch("plan", *SMALL, "--lang", "zh").stdout


def test_what_was_not_said_is_assumed_aloud(myriarch: Command) -> None:
    made = answer(myriarch("plan", "--model", "llama-3.1-8b", "--fleet", "h100-sxm:64", "--json"))
    assert made["question"]["tokens"] == pytest.approx(20 * made["question"]["active_parameters"], rel=0.01)
    assert len(made["question"]["assumed"]) == 2


def test_unlike_pools_share_the_batch_and_a_line_may_name_them(myriarch: Command) -> None:
    words = ("--model", "llama-3.1-8b", "--fleet", "h100-sxm:32+a100-sxm-80:32@25GB/s", "--batch", "512", "--json")
    made = answer(myriarch("plan", *words))
    best = next(plan for plan in made["plans"] if len(plan["groups"]) == 2)
    assert sum(group["sequences"] for group in best["groups"]) == 512
    assert best["averaging"]["alternative"]
    assert max(group["step_s"] for group in best["groups"]) <= best["step_s"] * (1 + 1e-9)
    for group in best["groups"]:
        assert sum(group["breakdown_s"].values()) == pytest.approx(group["step_s"])
        assert group["memory_bytes"] <= group["capacity_bytes"]


def test_the_least_money_at_two_sites_with_tariffs(myriarch: Command) -> None:
    fleet = ("--fleet", str(EXAMPLES / "fleet.yaml"), "--batch", "2048", "--objective", "cost", "--json")
    made = answer(myriarch("plan", "--model", "llama-3.1-8b", *fleet))
    spent = [plan["money"][0]["amount"] for plan in made["plans"]]
    assert spent == sorted(spent)
    assert all(plan["money"][0]["currency"] == "CNY" and plan["carbon_kg"] > 0 for plan in made["plans"])


def test_how_many_devices_a_deadline_takes(myriarch: Command) -> None:
    words = ("--model", "llama-3.1-8b", "--tokens", "1T", "--batch", "1024", "--deadline", "7d", "--json")
    made = answer(myriarch("plan", "--fleet", "h100-sxm", *words))
    best = made["plans"][0]
    assert best["meets"]
    assert best["days"] <= 7
    # No fewer do: a fleet one device smaller misses it.
    fewer = answer(myriarch("plan", "--fleet", f"h100-sxm:{best['devices'] // 2 // 8 * 8}", *words), code=3)
    assert not fewer["plans"][0]["meets"]


def test_an_impossible_deadline_gets_the_best_there_is(myriarch: Command) -> None:
    made = answer(myriarch("plan", *SMALL, "--deadline", "1h", "--json"), code=3)
    usual = answer(myriarch("plan", *SMALL, "--json"))
    assert "0.0417 days" in made["target_missed"]
    assert made["plans"][0]["step_s"] == pytest.approx(usual["plans"][0]["step_s"])


def test_a_model_that_fits_nowhere_gets_the_nearest_miss(myriarch: Command) -> None:
    made = answer(myriarch("plan", "--model", "llama-3.1-405b", "--fleet", "h100-sxm:8", "--json"), code=1)
    assert made["plans"] == []
    miss = made["miss"]
    assert miss["excess_bytes"] > 0
    assert miss["devices_needed"] > 8
    assert str(miss["devices_needed"]) in miss["text"]
    enough = answer(
        myriarch("plan", "--model", "llama-3.1-405b", "--fleet", f"h100-sxm:{miss['devices_needed']}", "--json")
    )
    assert enough["plans"]


def test_doubtful_chips_are_labelled(myriarch: Command) -> None:
    made = answer(myriarch("plan", "--model", "llama-3.1-8b", "--fleet", "h800-sxm:64", "--json"))
    assert any("h800-sxm" in doubt for doubt in made["plans"][0]["groups"][0]["doubts"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--fleet", "h100-sxm:64"), "--model is missing"),
        (("--model", "llama-3.1-8b"), "--fleet is missing"),
        (("--model", "llama-3.1-8", "--fleet", "h100-sxm:64"), "llama-3-1-8b"),
        (("--model", "llama-3.1-8b", "--fleet", "h100sxm:64"), "h100-sxm"),
        (("--model", "llama-3.1-8b", "--fleet", "h100-sxm"), "not how many"),
        ((*SMALL, "--tokens", "many"), "--tokens: `many`"),
        ((*SMALL, "--deadline", "30"), "--deadline: `30`"),
        ((*SMALL, "--objective", "tiem"), "time"),
        ((*SMALL, "--precision", "bf61"), "bf16"),
        ((*SMALL, "--software", "megatron-cor"), "megatron-core"),
        ((*SMALL, "--fix", "pt=8"), "pt"),
        ((*SMALL, "--fix", "tp=x"), "`tp=x` is no whole number"),
        ((*SMALL, "--fix", "tp=0"), "`tp=0`"),
        ((*SMALL, "--fix", "tp"), "write tp=8"),
        ((*SMALL, "--fix", "tp=8", "--fix", "tp=4"), "twice"),
        ((*SMALL, "--fix", "recompute=ful"), "full"),
        ((*SMALL, "--fix", "schedule=interleave"), "interleaved"),
        ((*SMALL, "--fix", "schedule=1f1b", "--fix", "virtual=2"), "contradict"),
        ((*SMALL, "--fix", "zero_stage=4"), "from 0 to 3"),
        ((*SMALL, "--fix", "narrow_share=2"), "no share"),
        ((*SMALL, "--top", "0"), "--top"),
        ((*SMALL, "--budget", "1M USD"), "needs prices"),
        ((*SMALL, "--batch", "1.5"), "whole number"),
        ((*SMALL, "--batch", "1e19"), "--batch: `1e19` is more than"),
        ((*SMALL, "--emit", "pytorch"), "--emit: `pytorch`"),
        ((*SMALL, "--flops", "1e22"), "--flops goes with --compute-optimal"),
        ((*SMALL, "--law", "kaplan"), "--law goes with --compute-optimal"),
        ((*SMALL, "--deadline", "1e-9s"), "less than a second"),
        (("--compute-optimal", "--flops", "1e22", "--emit", "torchtitan"), "--emit does not go"),
        (("--compute-optimal", "--fleet", "h100-sxm", "--deadline", "30d"), "not how many"),
        (("--model", "500B", "--fleet", "1000PFLOP/s"), "--tokens is missing"),
        (("--model", "500B", "--fleet", "1000PFLOPS", "--tokens", "1T"), "PFLOP/s"),
        (("--compute-optimal",), "--flops"),
        (("--compute-optimal", "--flops", "1e22", "--law", "chinchila"), "chinchila"),
    ],
)
def test_a_wrong_question_is_explained(myriarch: Command, words: tuple[str, ...], said: str) -> None:
    done = myriarch("plan", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_fixed_axes_are_kept(myriarch: Command) -> None:
    fixed = ("tp=4", "pp=2,4", "zero_stage=1", "recompute=selective", "schedule=zero-bubble", "sequence_parallel=on")
    words = [word for each in fixed for word in ("--fix", each)]
    layouts = [plan["groups"][0]["layout"] for plan in answer(myriarch("plan", *SMALL, *words, "--json"))["plans"]]
    for name, values in (
        ("tp", {4}), ("pp", {2, 4}), ("zero_stage", {1}), ("recompute", {"selective"}), ("schedule", {"zero-bubble"}),
        ("sequence_parallel", {True}),
    ):  # fmt: skip
        assert {layout[name] for layout in layouts} <= values


def test_what_is_fixed_is_fixed_in_every_pool(myriarch: Command) -> None:
    words = ("--model", "llama-3.1-8b", "--fleet", "h100-sxm:32+a100-sxm-80:32@25GB/s", "--batch", "512")
    made = answer(myriarch("plan", *words, "--fix", "tp=4", "--fix", "pp=1", "--json"))
    assert {(group["layout"]["tp"], group["layout"]["pp"]) for plan in made["plans"] for group in plan["groups"]} == {
        (4, 1)
    }


def fleet_file(folder: Path, **pool: Any) -> str:
    """Two pools on one link; `pool` is added to the first."""
    pools = [
        {"name": name, "chip": "h100-sxm", "nodes": 2, "devices_per_node": 8, **more}
        for name, more in (("a", pool.get("a", {})), ("b", pool.get("b", {})))
    ]
    link = {"between": ["a", "b"], "bandwidth_bytes_per_s": "25 GB/s"}
    path = folder / "fleet.json"
    path.write_text(json.dumps({"name": "two", "pools": pools, "links": [link]}), "utf-8")
    return str(path)


def test_a_price_that_is_missing_is_not_zero(myriarch: Command, tmp_path: Path) -> None:
    fleet = fleet_file(tmp_path, a={"price_per_device_hour": 2, "currency": "USD"})
    for words in (("--objective", "cost"), ("--budget", "1M USD")):
        done = myriarch("plan", "--model", "llama-3.1-8b", "--fleet", fleet, *words)
        assert (done.returncode, "`b` has none" in done.stderr) == (2, True), done.stderr


def test_numbers_that_nothing_has_are_refused_at_once(myriarch: Command, tmp_path: Path) -> None:
    fleet = fleet_file(tmp_path, a={"failures": {"per_node_day": 1e9}})
    done = myriarch("plan", "--model", "llama-3.1-8b", "--fleet", fleet)
    assert (done.returncode, "more than one a minute" in done.stderr) == (2, True), done.stderr
    model = tmp_path / "model.json"
    shape = {"name": "deep", "layers": 1_000_000_000, "width": 512, "heads": 8, "context_tokens": 2048}
    model.write_text(json.dumps(shape), "utf-8")
    done = myriarch("plan", "--model", str(model), "--fleet", "h100-sxm:8")
    assert (done.returncode, "use at most 10000" in done.stderr) == (2, True), done.stderr


def test_a_missed_budget_gets_what_comes_nearest(myriarch: Command, tmp_path: Path) -> None:
    price = {"price_per_device_hour": 2, "currency": "USD"}
    fleet = fleet_file(tmp_path, a=price, b={**price, "price_per_device_hour": 1})
    words = ("--model", "llama-3.1-8b", "--fleet", fleet, "--batch", "512", "--budget", "10 USD", "--json")
    made = answer(myriarch("plan", *words), code=3)
    spent = [plan["money"][0]["amount"] for plan in made["plans"]]
    assert spent == sorted(spent)
    assert spent[0] > 10


def test_a_slow_network_between_nodes_is_felt_by_pipelines(myriarch: Command, tmp_path: Path) -> None:
    """Stages are neighbours, but a pipeline longer than a node leaves it somewhere."""
    steps = []
    for rate in ("50 GB/s", "1 B/s"):
        pool = {"name": "a", "chip": "h100-sxm", "nodes": 2, "devices_per_node": 8}
        path = tmp_path / "fleet.json"
        path.write_text(
            json.dumps({"name": "one", "pools": [{**pool, "link": {"bandwidth_bytes_per_s": rate}}]}), "utf-8"
        )
        words = ("--model", "llama-3.1-8b", "--fleet", str(path), "--batch", "512", "--top", "1", "--json")
        best = answer(myriarch("plan", *words))["plans"][0]
        steps.append((best["devices"], best["step_s"]))
    assert steps[1][0] == 8, "over 1 B/s nothing is sent"
    assert steps[1][1] > 1.5 * steps[0][1]


def test_what_is_offloaded_is_said_and_costs_time(myriarch: Command) -> None:
    words = (*SMALL, "--fix", "offload=optimizer", "--top", "1", "--json")
    there, here = answer(myriarch("plan", *words))["plans"][0], answer(myriarch("plan", *SMALL, "--json"))["plans"][0]
    assert there["groups"][0]["layout"]["offload_optimizer"] == 1
    assert there["step_s"] > here["step_s"]


def test_the_best_plan_in_a_framework_s_words(myriarch: Command) -> None:
    done = myriarch("plan", *SMALL, "--emit", "megatron-lm")
    assert done.returncode == 0
    assert "--tensor-model-parallel-size" in done.stdout
    assert "--global-batch-size 512" in done.stdout
    done = myriarch("plan", *SMALL, "--emit", "torchtitan", "--json")
    assert json.loads(done.stdout)["framework"] == "torchtitan"


def test_the_public_case_by_arithmetic(myriarch: Command) -> None:
    """6 x 5e11 x 1.5e13 = 4.5e25 FLOPs are 520.8 days of 1,000 PFLOP/s at its peak."""
    words = ("--model", "dense-500b", "--fleet", "1000PFLOP/s", "--tokens", "15T", "--json")
    made = json.loads(myriarch("plan", *words).stdout)
    jsonschema.validate(made, document("arithmetic"))
    peak_days = 6 * made["parameters"] * 15e12 / 1e18 / 86_400
    assert peak_days == pytest.approx(520.8, rel=0.02)
    ordinary = made["envelopes"][0]
    assert ordinary["run_s"] / 86_400 * ordinary["utilisation"] == pytest.approx(peak_days)
    month = myriarch("plan", *words, "--deadline", "1 month")
    assert month.returncode == 3
    assert json.loads(month.stdout)["needed"]["verdict"] == "impossible"
    years = myriarch("plan", *words, "--deadline", "3 years")
    assert (years.returncode, json.loads(years.stdout)["needed"]["verdict"]) == (0, "best published")
    text = myriarch("plan", "--model", "500B", "--fleet", "1000PFLOP/s", "--tokens", "15TB", "--deadline", "3 years")
    assert text.returncode == 0
    assert "bytes of text in a token" in text.stdout


def test_what_to_train_with_a_budget(myriarch: Command) -> None:
    done = myriarch("plan", "--compute-optimal", "--flops", "5.76e23", "--json")
    made = json.loads(done.stdout)
    jsonschema.validate(made, document("optimal"))
    assert made["optimum"]["parameters"] == pytest.approx(72e9, rel=0.02)
    assert made["plan"] is None
    assert {each["law"] for each in made["compared"]} >= {"kaplan", "chinchilla-1", "chinchilla-2", "chinchilla-3"}


def test_a_fleet_s_time_is_filled(myriarch: Command) -> None:
    words = ("--fleet", "h100-sxm:64", "--deadline", "30d", "--batch", "512", "--json")
    made = json.loads(myriarch("plan", "--compute-optimal", *words).stdout)
    assert 27 < made["plan"]["plans"][0]["days"] <= 30
    assert made["plan"]["question"]["tokens"] == pytest.approx(made["optimum"]["tokens"], rel=1e-5)


def test_walls_have_rows_remedies_and_a_picture(myriarch: Command, tmp_path: Path) -> None:
    picture = tmp_path / "walls.svg"
    done = myriarch(
        "walls", "--model", "llama-3.1-8b", "--chip", "h100-sxm", "--from", "64", "--to", "256", "--points", "2",
        "--power", "100kW", "--svg", str(picture), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    jsonschema.validate(made, document("walls"))
    first, last = made["rows"][0], made["rows"][-1]
    assert (first["devices"], last["devices"]) == (64, 256)
    assert last["energy"]["powered"] < first["energy"]["powered"]
    assert last["binds"] == "energy"
    assert picture.read_text("utf-8").startswith("<svg")


def test_a_model_file_may_begin_with_a_digit(
    myriarch: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "70b.yaml").write_text("name: m\n")
    done = myriarch("walls", "--model", "70b.yaml", "--chip", "h100-sxm")
    assert done.returncode == 2
    assert "70b.yaml:1: `layers` is missing" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--chip", "h100"), "h100-sxm"),
        (("--chip", "h100-sxm", "--from", "9", "--to", "8"), "--from"),
        (("--chip", "h100-sxm", "--power", "30"), "--power"),
        (("--chip", "h100-sxm", "--pue", "0.9"), "--pue"),
        (("--chip", "h100-sxm", "--pue", "nan"), "--pue"),
        (("--chip", "h100-sxm", "--pue", "inf"), "--pue"),
        (("--chip", "h100-sxm", "--price", "nan"), "--price"),
        (("--chip", "h100-sxm", "--to", "1e300"), "--to"),
        (("--chip", "h100-sxm", "--points", "1"), "--points"),
    ],
)
def test_wrong_walls_are_explained(myriarch: Command, words: tuple[str, ...], said: str) -> None:
    done = myriarch("walls", "--model", "llama-3.1-8b", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_model_that_fits_on_no_pool_of_several(myriarch: Command) -> None:
    done = myriarch("plan", "--model", "llama-3.1-405b", "--fleet", "h100-sxm:8+mi300x:8@25GB/s", "--tokens", "1T")
    assert done.returncode == 1, done.stderr
    assert "fits nowhere" in done.stdout
