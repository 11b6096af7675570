"""`docs/simulation.md` shows what its commands print: each is run, and compared line by line.

`...` stands for lines that the document leaves out; files and folders are not shown. Of forecasts the form is compared
and not the numbers: what is learnt is another with every change to what learns.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from myriarch.cli.app import run
from myriarch.simulate.scenario_policy import POLICIES

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
FORECASTS = ("  waits against", "  loss of the forecasts")
SESSIONS = re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all sessions."""
    return tmp_path_factory.mktemp("sessions")


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a command of the document prints, without trailing spaces and the places of files."""
    words = shlex.split(command)
    assert words[0] == "myriarch"
    if words[2] == "--from-live" and not Path("runs", words[3]).is_dir():  # another session's simulation
        assert run(["simulate", str(ROOT / "examples" / "simulate" / f"{words[3]}.yaml")]) == 0
        capsys.readouterr()
    arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in words[1:]]
    assert run(arguments) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    return [line for line in lines if not re.match(r"(folder|jobs|cells|stream): ", line)]


def form(line: str, command: str) -> str:
    """A line as it is; of forecasts without numbers, and what they change."""
    if "--from-live" not in command and not line.startswith(FORECASTS):
        return line
    return re.sub(r" +", " ", re.sub(r"[\d,.]*\d( s| min| h| d|%)?|at once", "#", line))


@pytest.mark.parametrize(("command", "shown"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_outputs_are_what_the_command_prints(
    command: str, shown: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MYRIARCH_LANG", "en")
    monkeypatch.setattr("myriarch.cli.simulate.os.sched_getaffinity", lambda _: {0})
    lines = [form(line, command) for line in printed(command, capsys)]
    parts = [
        [form(line, command) for line in part.splitlines()]
        for part in re.split(r"^\.\.\.\n", shown, flags=re.MULTILINE)
    ]
    at = 0
    for part in parts:
        while part and lines[at : at + len(part)] != part:
            at += 1
            assert at < len(lines), f"not printed any more:\n{chr(10).join(part)}"
        at += len(part)


def test_every_policy_is_in_the_document() -> None:
    named = re.findall(r"^\| `([a-z]+)` \|", DOCUMENT.partition("### Policies")[2].partition("###")[0], re.MULTILINE)
    assert set(named) == set(POLICIES)


def test_there_is_a_session_of_each_example() -> None:
    examples = {path.name for path in (ROOT / "examples" / "simulate").glob("*.yaml")}
    assert examples == {Path(word).name for command, _ in SESSIONS for word in command.split() if "examples/" in word}
