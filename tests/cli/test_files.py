"""Run files on disk: found, read, checked together; and every way in which a file can be missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from myriarch.cli.files import FILE_LIMIT_BYTES, load_fleet, load_model, load_run
from myriarch.errors import SpecError
from myriarch.spec.fleet import Chip

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-pools"

FLEET_JSON = """{
  "name": "lab",
  "pools": [{"name": "only", "chip": "h20", "nodes": 2, "link": {"bandwidth_bytes_per_s": "50 GB/s"}}]
}"""
MODEL_TOML = """
name = "tiny"
layers = 2
width = 64
heads = 4
context_tokens = 32
"""
RUN = "name: r\nfleet: fleet.json\nmodel: model.toml\nsteps: 4\nbatch: {sequences: 8}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run file in YAML whose fleet is JSON and whose model is TOML."""
    (tmp_path / "fleet.json").write_text(FLEET_JSON)
    (tmp_path / "model.toml").write_text(MODEL_TOML)
    (tmp_path / "run.yaml").write_text(RUN)
    return tmp_path


def error(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_run(path)
    return str(caught.value).replace(str(path.parent), "...")


def test_the_example_is_what_its_comments_say() -> None:
    resolved = load_run(EXAMPLE / "run.yaml")
    fast, slow = resolved.fleet.pools
    assert (fast.nodes, fast.spares, slow.nodes, slow.spares) == (2, 1, 2, 0)
    assert fast.emulate is not None
    assert slow.emulate is not None
    working = sum(p.devices * p.emulate.cpu_fraction for p in resolved.fleet.pools if p.emulate is not None)
    assert working <= 1.9 + 1e-9, "fits a machine with two cores"
    assert isinstance(fast.chip, Chip)
    assert fast.chip.rate_flops_per_s == {}, "measured when the fleet starts"
    assert 1.0e6 < resolved.model.parameters < 1.3e6
    assert [(event.action, event.target) for event in resolved.run.chaos] == [("kill", "fast-1")]
    assert [group.mesh.dp_shard for group in resolved.run.groups] == [2, 2]


def test_formats_mix_and_paths_start_at_the_run_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    resolved = load_run(Path("../run.yaml"))
    assert resolved.model.width == 64
    assert isinstance(resolved.fleet.pools[0].chip, Chip)


def test_the_example_means_the_same_in_json(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    resolved = load_run(tmp_path / "run.yaml")
    fleet = msgspec.json.format(msgspec.json.encode(resolved.fleet))
    (tmp_path / "fleet.yaml").unlink()
    (tmp_path / "fleet.json").write_bytes(fleet)
    text = (tmp_path / "run.yaml").read_text().replace("fleet: fleet.yaml", "fleet: fleet.json")
    (tmp_path / "run.yaml").write_text(text)
    assert load_run(tmp_path / "run.yaml").fleet == resolved.fleet


def test_a_byte_order_mark_is_passed_over(folder: Path) -> None:
    (folder / "run.yaml").write_bytes(b"\xef\xbb\xbf" + RUN.encode())
    assert load_run(folder / "run.yaml").run.steps == 4


def test_a_corpus_on_disk_comes_out_absolute(folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / "run.yaml").write_text(RUN + "data: {source: text}\n")
    assert load_run(folder / "run.yaml").run.data.source == str(folder / "text")


def test_a_missing_corpus(folder: Path) -> None:
    (folder / "run.yaml").write_text(RUN + "data:\n  source: texts\n")
    assert error(folder / "run.yaml") == (
        ".../run.yaml:7: data.source: `.../texts` does not exist; name a UTF-8 file, a folder of such, or `stdlib`"
    )


def test_a_missing_run_file(folder: Path) -> None:
    assert error(folder / "rnu.yaml") == "`.../rnu.yaml` does not exist; did you mean `run.yaml`?"
    assert error(folder / "other.txt") == "`.../other.txt` does not exist; check the path"
    assert error(folder / "no" / "run.yaml") == "`.../run.yaml` does not exist, nor does its folder; check the path"


def test_a_missing_fleet_file_is_a_mistake_in_the_run_file(folder: Path) -> None:
    (folder / "run.yaml").write_text(RUN.replace("fleet.json", "fleet.jsn"))
    assert error(folder / "run.yaml") == (
        ".../run.yaml:2: fleet: `.../fleet.jsn` does not exist; did you mean `fleet.json`?"
    )


def test_a_folder(folder: Path) -> None:
    assert (
        error(folder)
        == f"`.../{folder.name}` is a folder; name a file in it, like `fleet.json`, `model.toml`, `run.yaml`"
    )
    (folder / "empty").mkdir()
    assert error(folder / "empty") == "`.../empty` is a folder; name a file"


def test_another_ending(folder: Path) -> None:
    (folder / "run.txt").write_text(RUN)
    assert error(folder / "run.txt") == (
        "`.../run.txt` does not end in `.yaml`, `.yml`, `.json`, `.toml`, which say what it is; rename it"
    )


def test_not_utf8(folder: Path) -> None:
    (folder / "run.yaml").write_bytes(b"name: caf\xe9\n")
    assert error(folder / "run.yaml") == "`.../run.yaml` is not UTF-8 at byte 9; save it as UTF-8"


def test_too_large(folder: Path) -> None:
    with (folder / "run.yaml").open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    assert error(folder / "run.yaml") == "`.../run.yaml` is larger than 16777216 bytes; a spec file is a few thousand"


def test_not_a_regular_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    assert error(folder / "pipe.yaml") == "`.../pipe.yaml` is not a regular file; name one"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_not_permitted(folder: Path) -> None:
    (folder / "run.yaml").chmod(0)
    assert error(folder / "run.yaml") == "`.../run.yaml` cannot be read: Permission denied; check its permissions"


def test_problems_carry_the_file_they_are_in(folder: Path) -> None:
    (folder / "model.toml").write_text(MODEL_TOML + "kv_heads = 3\n")
    assert error(folder / "run.yaml") == ".../model.toml: kv_heads: 3 does not divide the 4 heads; use 1 or 2 or 4"


# --- fleets and models for the planner -------------------------------------------------------------------------------

PLAN = EXAMPLE.parent / "plan"


def test_the_example_for_the_planner_is_what_its_comments_say() -> None:
    fleet, model = load_fleet(str(PLAN / "fleet.yaml")), load_model(str(PLAN / "model.yaml"))
    assert [pool.devices for pool in fleet.pools] == [2048, 1024]
    assert all(isinstance(pool.chip, Chip) for pool in fleet.pools)
    assert [round(fleet.carbon_kg_per_kwh_of(pool) or 0.0, 3) for pool in fleet.pools] == [0.648, 0.574]
    assert fleet.currencies == ("CNY",)
    assert fleet.links[0].bandwidth_bytes_per_s == 50e9
    assert round(model.parameters / 1e9) == 104
    assert round(model.active_parameters / 1e9) == 10


def test_models_and_fleets_need_no_file() -> None:
    assert load_model("DeepSeek-V3").parameters == 671_026_404_352
    (pool,) = load_fleet("h20:16").pools
    assert isinstance(pool.chip, Chip)
    assert pool.chip.id == "h20"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deepsek-v3", "model `deepsek-v3` is not in the catalogue; did you mean `deepseek-v3`? write a model file"),
        ("examples/plan/modl.yaml", "`examples/plan/modl.yaml` does not exist; did you mean `model.yaml`?"),
    ],
)
def test_a_model_that_is_neither_a_file_nor_a_name(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE.parents[1])
    with pytest.raises(SpecError) as caught:
        load_model(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h20", "`h20` is neither a fleet file nor a fleet in one line; write `chip:devices`, like h20:1024"),
        ("h21:8", "chip `h21` is not in the catalogue; did you mean `h20`?"),
        ("h20:10000000000", "h20:10000000000: pools: have 1250000000 nodes; a fleet has at most 1000000"),
    ],
)
def test_a_fleet_that_is_neither_a_file_nor_a_line(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load_fleet(text)
    assert str(caught.value).startswith(message)


def test_files_for_the_planner_are_checked_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        "name: m\nlayers: 2\nwidth: 64\nheads: 2\ncontext_tokens: 8\n"
        "mixture: {experts: 4, top_k: 5, expert_feed_forward: 8}\n"
    )
    with pytest.raises(SpecError, match=r"m.yaml:6: mixture.top_k: 5 is more than the 4 experts"):
        load_model(str(tmp_path / "m.yaml"))
    (tmp_path / "f.yaml").write_text("name: f\npools:\n  - {name: p, chip: h2000, nodes: 1}\n")
    with pytest.raises(SpecError, match=r"f.yaml:3: pools\[0\].chip: chip `h2000` is not in the catalogue"):
        load_fleet(str(tmp_path / "f.yaml"))
