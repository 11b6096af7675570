"""`myriarch simulate`: from a scenario file to tables, JSON and a run directory; sweeps that go on; what is refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonschema
import msgspec
import pytest

from myriarch.cli import simulate as module
from myriarch.cli.report import report
from myriarch.cli.schema import document
from myriarch.cli.simulate import Options, simulate
from myriarch.cli.simulate_files import load_scenario
from myriarch.cli.simulate_words import METRICS as METRIC_WORDS
from myriarch.cli.simulate_words import PROBLEMS_ZH, TERMS, WORDS_ZH, verdict
from myriarch.control.state import Phase
from myriarch.errors import EnvironmentFault, MyriarchError, SpecError, UsageError
from myriarch.event.actions import Decide
from myriarch.run.directory import Attempt, find_attempt
from myriarch.schedule.job import Kind
from myriarch.simulate import sweep_crew
from myriarch.simulate.breakdowns import Course
from myriarch.simulate.from_live_course import Outcome
from myriarch.simulate.rates_log import LogProblemKind
from myriarch.simulate.scenario_answer import METRICS, Answer
from myriarch.simulate.tuning import Gain, TuningReport
from myriarch.simulate.workload.trace import ProblemKind

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples" / "simulate").glob("*.yaml"))

SMALL = """
name: small
fleet: v100-sxm2-32:16
workload:
  mfu: 0.3
  generator: {name: philly, jobs: 60, load: 1.5}
  traits: [{preemptible: true, restart_s: 60, saves_every_s: 600, share: 0.5}]
faults: {per_node_day: 2, repair_s: 1 h, detect_s: 30}
until_s: 10 d
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a scenario in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def run(scenario: str = "small.yaml", **options: Any) -> int:
    return simulate(Options(scenario=scenario, workers=options.pop("workers", 1), **options), json_output=True)


def out(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


# --- one scenario ----------------------------------------------------------------------------------------------------


def test_json_fits_its_schema_and_is_what_report_opens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    made = json.loads(printed.out)
    jsonschema.validate(made, document("simulate"))
    assert sum(made["leaves"].values()) == made["capacity_device_ns"]
    assert made["effective"] == pytest.approx(made["factors"]["availability"] * made["factors"]["scheduling"]
        * made["factors"]["fault_handling"] * made["factors"]["compute"])  # fmt: skip
    attempt = Attempt(Path(made["files"]["folder"]))
    assert msgspec.json.decode(attempt.simulation.read_bytes(), type=Answer).digest == made["digest"]
    assert len((folder / made["files"]["jobs"]).read_text().splitlines()) == 61
    assert report("small", json_output=True) == 0
    assert out(capsys) == made


def test_tables_in_both_languages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lang, words in (
        ("en", ("small: easy, 60 jobs, 16 devices", "Effective compute: ", "useful compute", "tenant-0", "energy")),
        ("zh", ("有效算力", "有用", "租户", "能耗", "利用率")),
    ):
        assert simulate(Options(scenario="small.yaml"), lang=lang) == 0
        shown = capsys.readouterr().out
        for word in words:
            assert word in shown or (word == "有用" and "有效计算" in shown), word
        assert max(map(len, shown.splitlines())) <= 120
    assert set(METRIC_WORDS) == set(METRICS)
    choices = get_args(get_type_hints(Decide)["choice"])
    for said in (get_args(Kind), get_args(Course), choices, get_args(Outcome), get_args(Phase)):
        assert set(said) <= set(WORDS_ZH)
    assert {*get_args(ProblemKind), *get_args(LogProblemKind)} == set(PROBLEMS_ZH)
    assert "小实验" in shown
    assert not re.search(r"\b(experiment|gang|in place|repair|they are in no mean)\b", shown)
    for term in (*TERMS.values(), *METRIC_WORDS.values()):
        assert set(term) == {"en", "zh"}
        assert all(term.values())


def test_the_command_gives_the_same_under_another_hash_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    here = out(capsys)
    code = "import sys; from myriarch.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, "simulate", "small.yaml", "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    there = json.loads(done.stdout)
    assert here.pop("files") != there.pop("files")
    assert here == there


def test_a_run_file_leaves_a_journal_that_report_opens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(ROOT / "examples/two-pools/run.yaml")) == 0
    made = out(capsys)
    jsonschema.validate(made, document("simulate"))
    assert (made["kind"], made["run"]["outcome"], made["run"]["steps_done"]) == ("run", "completed", 120)
    attempt = find_attempt("two-pools-simulated")
    assert attempt.journal.is_file()
    assert report("two-pools-simulated", json_output=True) == 0
    told = out(capsys)
    assert told["leaves"] == made["leaves"]
    assert told["run"]["outcome"] == "completed"
    assert len(told["incidents"]) == made["run"]["incidents"] == 1
    with pytest.raises(UsageError, match="is no run"):
        find_attempt("", launched=True)


def test_problems_of_a_trace_are_said_by_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ROOT / "tests/data/traces/sample.swf"
    (folder / "traced.yaml").write_text(f"name: traced\nfleet: v100-sxm2-32:8\nworkload: {{trace: {source}}}\n")
    assert run("traced.yaml") == 0
    printed = capsys.readouterr()
    assert "6 lines gave no job: 1 did not run, 1 missing field" in printed.err
    assert json.loads(printed.out)["intake"]["problems"]["repeated id"] == 1
    assert simulate(Options(scenario="traced.yaml"), lang="zh") == 0
    said = capsys.readouterr().err
    assert "6 行无效：从未运行 1，缺少字段 1" in said
    assert "编号重复 1" in said


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_goes_on_where_it_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vary = ["policy.name=fifo,las"]
    worked: list[int] = []
    original = sweep_crew.answers

    def interrupted(scenarios: Any, *, workers: int) -> Iterator[tuple[int, Answer]]:
        for index, answer in original(scenarios, workers=workers):
            worked.append(index)
            yield index, answer
            if len(worked) == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(vary=vary, seeds=3)
    assert "3 of 6 cells are kept; the same command goes on from there" in capsys.readouterr().err
    with pytest.raises(UsageError, match="was stopped before there was an answer"):
        find_attempt("small")
    assert run(vary=vary, seeds=3) == 0
    printed = capsys.readouterr()
    assert "going on after 3 of 6 cells" in printed.err
    assert len(worked) == 6
    sweep = json.loads(printed.out)
    jsonschema.validate(sweep, document("sweep"))
    assert [variant["settings"] for variant in sweep["variants"]] == [{"policy.name": "fifo"}, {"policy.name": "las"}]
    jct = [variant["metrics"]["completion_s_mean"] for variant in sweep["variants"]]
    assert all(one["seeds"] == 3 and one["half_width"] > 0 for one in jct)
    paired = sweep["variants"][1]["against_first"]["completion_s_mean"]
    assert paired["mean"] == pytest.approx(jct[1]["mean"] - jct[0]["mean"])
    run(vary=vary, seeds=3)
    assert out(capsys) == sweep
    assert len(worked) == 6, "nothing is worked out twice"
    assert report("small", json_output=True) == 0
    assert out(capsys) == sweep
    (folder / "small.yaml").write_text(SMALL.replace("load: 1.5", "load: 1.4"))
    monkeypatch.setattr(module, "answers", original)
    run(vary=vary, seeds=1)
    assert out(capsys)["files"] != sweep["files"], "a changed scenario starts anew"


def test_variants_that_are_alike_are_said_to_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "alike.yaml").write_text(
        "name: alike\nfleet: v100-sxm2-32:8\nworkload: {jobs: [{id: a, devices: 1, run_s: 9}]}"
    )
    assert simulate(Options(scenario="alike.yaml", vary=("policy.name=easy,fifo",), workers=1)) == 0
    assert "all variants came to the same" in capsys.readouterr().out


def test_workers_find_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(seeds=2) == 0
    alone = out(capsys)
    assert run(seeds=2, workers=2, fresh=True) == 0
    both = out(capsys)
    assert alone.pop("files") != both.pop("files")
    assert alone == both


def test_workers_say_what_is_wrong_and_none_is_left(folder: Path) -> None:
    (folder / "empty.csv").write_text("job,submit_s,wait_s,run_s,req_s,nodes,gpus,procs,gpu_type,user,group,state\n")
    (folder / "empty.yaml").write_text("name: e\nfleet: v100-sxm2-32:8\nworkload: {trace: empty.csv}\n")
    crew = sweep_crew._Crew(1)
    (process,) = crew._processes.values()
    with pytest.raises(MyriarchError, match="no job to simulate") as caught:
        list(crew.work([load_scenario(folder / "empty.yaml")]))
    assert (caught.value.exit_code, caught.value.hint) == (2, "name another file, or a wider window")
    process.kill()
    with pytest.raises(EnvironmentFault, match="died in cell 0"):
        list(crew.work([load_scenario(folder / "small.yaml")]))
    crew.end()
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()


def test_tune_says_whether_its_gain_is_proven(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = "tuning: {week_s: 1 d, candidates: 2, refinements: 0}\n"
    (folder / "tuned.yaml").write_text(
        SMALL.replace("name: small", "name: tuned").replace("jobs: 60", "jobs: 150") + plan
    )
    assert run("tuned.yaml", tune=True) == 0
    tuning = out(capsys)
    jsonschema.validate(tuning, document("tuning"))
    assert tuning["policy"] == "easy"
    trials = tuning["report"]["trials"]
    assert len(Path(tuning["files"]["trials"]).read_text().splitlines()) == trials
    assert report("tuned", json_output=False) == 0
    assert "policy.order" in capsys.readouterr().out
    assert run("tuned.yaml", tune=True) == 0
    assert f"going on after {trials} trials" in capsys.readouterr().err
    with pytest.raises(UsageError, match="searches by itself"):
        run("tuned.yaml", tune=True, seeds=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": {"policy.order": "arrival"}}, "没有更好的参数"),
        ({"gain_low": None, "gain_high": None}, "证明不了什么"),
        ({}, "在 4 个未参与搜索的时段上损失 -18.1%，95% 区间 -25.9% 至 -9.5%"),
        ({"recommended": False}, "有害：在 4 个未参与搜索的时段上损失 -18.1%"),
        ({"recommended": False, "gain_low": -0.1}, "未证实：在 4 个"),
    ],
)
def test_verdicts_of_a_search_in_chinese(changes: dict[str, Any], said: str) -> None:
    numbers: dict[str, Any] = {
        "weeks": 4,
        "gain": 0.2,
        "gain_low": 0.1,
        "gain_high": 0.3,
        "harm": 0.1,
        "confidence": 0.95,
    }
    gain = Gain(**numbers | {name: value for name, value in changes.items() if name in numbers})
    rest: dict[str, Any] = {"recommended": True, "found": {"policy.order": "smallest"}}
    rest |= {name: value for name, value in changes.items() if name in rest}
    common: dict[str, Any] = {"past": gain, "held_out": gain, "by_week": {}, "tried": 2, "trials": 9}
    made = TuningReport(reason="in English", present={"policy.order": "arrival"}, **common, **rest)
    assert said in verdict(made, "zh")
    assert verdict(made, "en") == "in English"


def test_tune_searches_what_is_chosen(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = SMALL.replace("jobs: 60", "jobs: 150").replace("small", "chosen") + "policy: {name: priority}\n"
    plan = "tuning: {{week_s: 1 d, candidates: 2, refinements: 0, parameters: [{}]}}\n"
    (folder / "chosen.yaml").write_text(wide + plan.format("weights.age, favour_small"))
    assert run("chosen.yaml", tune=True) == 0
    assert set(out(capsys)["report"]["found"]) == {"policy.weights.age", "policy.favour_small"}
    (folder / "chosen.yaml").write_text(wide + plan.format("spell"))
    with pytest.raises(SpecError, match="`priority` has no `spell` to tune"):
        run("chosen.yaml", tune=True)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nworkload: {trace: nowhere.swf}\nfleet: v100-sxm2-32:8", "nowhere.swf` does not exist"),
        ("name: x\nworkload: {trace: smal.yaml}\nfleet: v100-sxm2-32:8", "did you mean `small.yaml`?"),
        ("name: x\nworkload: {trace: .}\nfleet: v100-sxm2-32:8", "is a folder"),
        (
            "name: x\nfleet: v100-sxm2-32:8\npolicy: {name: easi}",
            "wrong.yaml:3: policy.name: `easi` is not known",
        ),
        ("name: x\nfleet: v100-sxm3:8", "fleet: chip `v100-sxm3` is not in the catalogue"),
        ("name: x\nfleet: fleet.yaml", "fleet.yaml` does not exist"),
        ("name: x\nflet: h100-sxm:8", "unknown key; did you mean `fleet`?"),
        ("name: x\nfleet: v100-sxm2-32:8\nfaults: {log: nope.csv}", "faults.log: "),
        ("name: x", "asks for nothing"),
    ],
)
def test_wrong_scenarios_are_told_with_their_place(folder: Path, text: str, told: str) -> None:
    (folder / "wrong.yaml").write_text(text)
    with pytest.raises(SpecError) as caught:
        load_scenario(folder / "wrong.yaml")
    assert told in str(caught.value)
    assert caught.value.exit_code == 2
    assert not (folder / "runs").exists()


def test_an_empty_trace_leaves_nothing_behind(folder: Path) -> None:
    (folder / "empty.swf").write_text("; a header\n")
    (folder / "empty.yaml").write_text("name: e\nfleet: v100-sxm2-32:8\nworkload: {trace: empty.swf, kind: swf}\n")
    with pytest.raises(SpecError, match="no job to simulate"):
        run("empty.yaml")
    assert not list((folder / "runs").glob("*/attempts/*"))


@pytest.mark.parametrize("options", [{"tune": True}, {"seeds": 2}])
def test_a_search_or_sweep_that_fails_at_once_leaves_nothing_behind(folder: Path, options: dict[str, Any]) -> None:
    (folder / "short.yaml").write_text("name: short\nfleet: v100-sxm2-32:8\nworkload: {trace: empty.swf, kind: swf}\n")
    (folder / "empty.swf").write_text("; a header\n")
    with pytest.raises(SpecError, match="no job to simulate"):
        run("short.yaml", **options)
    assert not list((folder / "runs").glob("*/attempts/*"))


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("myriarch.simulate.scenario_cluster.ClusterRun.write_jobs", full)
    with pytest.raises(EnvironmentFault, match="No space left"):
        run()
    assert not list((folder / "runs").glob("*/attempts/*"))


def test_a_name_that_a_real_run_has_is_refused(folder: Path) -> None:
    attempt = folder / "runs" / "small" / "attempts" / "0001"
    attempt.mkdir(parents=True)
    for name in ("launch.json", "journal.jsonl"):
        (attempt / name).write_text("")
    with pytest.raises(UsageError, match="launched, not simulated"):
        run()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seeds": 0}, "--seeds: 0 is none"),
        ({"seeds": 10_001}, "--seeds: 10,001 are more than anybody waits for"),
        ({"vary": ["policy.name"]}, "is no field with values"),
        ({"vary": ["policy.name=easy,easy"]}, "has a value twice"),
        ({"vary": ["policy.name=easy", "policy.name=fifo"]}, "is varied twice"),
        ({"vary": ["seed=1,2"]}, "`seed` is no part of the question"),
        ({"seeds": 2, "workers": 0}, "--workers: 0 is none"),
        ({"workers": 0}, "--workers: 0 is none"),
    ],
)
def test_wrong_options(folder: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        run(**options)
