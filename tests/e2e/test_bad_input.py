"""What a user can get wrong, or the machine refuse, before a fleet starts: words, a remedy, an exit code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from myriarch.cli.app import run as command_line

Files = dict[str, dict[str, Any]]
Said = tuple[int, str]


@pytest.fixture
def spec_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The three files that are right, as the tests of whole fleets have them; a test spoils one."""
    monkeypatch.chdir(folder)
    return {
        "run": {
            "name": "bad", "fleet": "fleet.yaml", "model": "model.yaml", "steps": 4,
            "batch": {"sequences": 8, "micro_sequences": 2}, "data": {"source": "text.txt"},
        },
        "fleet": {
            "name": "test-fleet",
            "pools": [
                {"name": "fast", "chip": {"id": "cpu-core"}, "nodes": 2, "spares": 1},
                {"name": "slow", "chip": {"id": "cpu-core"}, "nodes": 2},
            ],
        },
        "model": {"name": "tiny", "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "context_tokens": 64},
    }  # fmt: skip


def write(files: Files) -> None:
    for name, content in files.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))


def train(capfd: pytest.CaptureFixture[str], file: str = "run.yaml") -> Said:
    """Exit code and stderr of `myriarch train FILE`, in this process: nothing may get as far as a fleet."""
    code = command_line(["train", file])
    return code, capfd.readouterr().err


def set_pool(key: str, value: Any) -> Callable[[Files], None]:
    return lambda files: files["fleet"]["pools"][1].update({key: value})


def misspell(files: Files) -> None:
    files["run"]["stepz"] = files["run"].pop("steps")


def set_run(key: str, value: Any) -> Callable[[Files], None]:
    return lambda files: files["run"].update({key: value})


WRONG: dict[str, tuple[Callable[[Files], None], list[str]]] = {
    "misspelt-key": (misspell, ["run.yaml:", "stepz: unknown key; did you mean `steps`?"]),
    "wrong-type": (set_run("steps", "many"), ["steps: the text `many` is not a whole number"]),
    "negative": (set_run("steps", -3), ["steps: -3 is out of range; use at least 1"]),
    "too-large": (set_run("steps", 10**40), ["steps: is too large"]),
    "wrong-unit": (set_run("recovery", {"wait_limit_s": "3 parsecs"}), ["recovery.wait_limit_s", "3 parsecs"]),
    "batch": (
        set_run("batch", {"sequences": 7, "micro_sequences": 1}),
        ["batch.sequences: 7 cannot be divided among workers (fast 2, slow 2)", "use 6 or 8"],
    ),
    "shares-sum": (set_run("shares", {"fast": 6, "slow": 4}), ["shares: sum to 10, and batch.sequences is 8"]),
    "share-of-nobody": (set_run("shares", {"fats": 6, "slow": 2}), ["shares.fats", "did you mean `fast`?"]),
    "no-nodes": (set_pool("nodes", 0), ["pools[1].nodes: 0 is out of range; use at least 1"]),
    "same-name": (set_pool("name", "fast"), ["pools[1].name: `fast` is pools[0] already"]),
    "unknown-chip": (set_pool("chip", "h100-smx"), ["pools[1].chip", "did you mean `h100-sxm`?"]),
    "no-model": (set_run("model", "modle.yaml"), ["model: `modle.yaml` does not exist; did you mean `model.yaml`?"]),
    "name-leaves-folder": (set_run("name", "../evil"), ["name: `../evil` is not a name"]),
    "no-corpus": (set_run("data", {"source": "nope.txt"}), ["data.source", "nope.txt` does not exist", "stdlib"]),
    "empty-corpus": (set_run("data", {"source": "empty.txt"}), ["data.source", "empty.txt` is empty"]),
    "no-such-fault": (
        set_run("chaos", [{"at_step": 3, "action": "kil", "target": "fast-1"}]),
        ["chaos[0].action: `kil` is not known; did you mean `kill`?"],
    ),
    "no-such-target": (
        set_run("chaos", [{"at_step": 3, "action": "kill", "target": "fast-9"}]),
        ["chaos[0].target: pool `fast` has nodes fast-0 to fast-2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_place_value_and_remedy(
    case: str, spec_files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, said = WRONG[case]
    Path("empty.txt").touch()
    spoil(spec_files)
    write(spec_files)
    code, err = train(capfd)
    assert code == 2, err
    for text in said:
        assert text in err
    assert "Traceback" not in err
    assert not Path("runs").exists(), "nothing was begun"


def test_what_is_no_run_file_is_refused(spec_files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    write(spec_files)
    Path("empty.yaml").touch()
    Path("noise.yaml").write_bytes(bytes(range(128, 256)) * 8)
    Path("zeros.yaml").write_bytes(bytes(512))
    Path("open.yaml").write_text("steps: [")
    Path("deep.yaml").write_text("a: " + "[" * 5000)
    Path("twice.yaml").write_text(Path("run.yaml").read_text() + "steps: 5\n")
    said = {
        "rum.yaml": "did you mean `run.yaml`?",
        "nowhere/run.yaml": "nor does its folder",
        ".": "is a folder; name a file in it, like",
        "text.txt": "does not end in",
        "/dev/null": "not a regular file",
        "empty.yaml": "an empty value is not a run; it needs `name`",
        "noise.yaml": "not UTF-8 at byte 0",
        "zeros.yaml": "not valid YAML",
        "open.yaml": "not valid YAML",
        "deep.yaml": "nested too deeply",
        "twice.yaml": "is given twice, first on line",
    }
    for file, text in said.items():
        code, err = train(capfd, file)
        assert code == 2, f"{file}: {err}"
        assert text in err, file
        assert "Traceback" not in err, file


@pytest.mark.parametrize("arguments", [["trian", "run.yaml"], ["train"], ["train", "run.yaml", "--frsh"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line(arguments) == 2
    assert "Usage: myriarch" in capfd.readouterr().err


def test_verbs_without_a_run_say_so(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.chdir(folder)
    for arguments in (["report"], ["report", "--json"], ["chaos", "kill", "fast-1"]):
        assert command_line(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert "there is no run in" in err
        assert "myriarch train" in err
    assert command_line(["schema", "repot"]) == 2
    assert "did you mean `report`?" in capfd.readouterr().err


def test_an_output_folder_that_cannot_be_written(spec_files: Files, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    Path("file").touch()
    spec_files["run"]["output"] = "file/inside"
    write(spec_files)
    code, err = train(capfd)
    assert code == 1
    assert "cannot be written: Not a directory" in err
    assert "`output`" in err
    assert "Traceback" not in err


def test_without_torch_the_remedy_is_named_and_reports_still_work(spec_files: Files) -> None:
    """A stand-in for an installation without the extra: the import is refused as if nothing were there."""
    write(spec_files)
    blocked = Path("blocked")
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join([str(blocked.absolute()), *filter(None, [os.environ.get("PYTHONPATH")])])

    def said(*arguments: str) -> Said:
        done = subprocess.run(
            [sys.executable, "-m", "myriarch.cli", *arguments], env={**os.environ, "PYTHONPATH": path},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    code, err = said("train", "run.yaml")
    assert code == 1
    assert "PyTorch is not installed" in err
    assert "pip install 'myriarch[train]'" in err
    assert said("schema", "run")[0] == 0
    assert not Path("runs").exists()


@pytest.mark.parametrize("mount", ["/dev/shm", "full"])
def test_a_full_file_system_is_seen_before_anything_starts(mount: str, spec_files: Files) -> None:
    """In a mount namespace of its own, with a file system of 100 kB where snapshots or checkpoints go."""
    pytest.importorskip("torch")
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root for a mount namespace")
    Path("full").mkdir()
    spec_files["run"]["output"] = "full"
    write(spec_files)
    script = (
        f"mount -t tmpfs -o size=100k tmpfs {mount} || exit 77; exec {sys.executable} -m myriarch.cli train run.yaml"
    )
    done = subprocess.run([unshare, "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert f"{mount} has 100 KiB free" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
