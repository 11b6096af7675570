"""Run files on disk: found, read, checked together; and every way in which a file can be missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from myriarch.cli.files import FILE_LIMIT_BYTES, load_run
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
