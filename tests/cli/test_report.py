"""`myriarch report`: from the files of a run, live, ended, killed or damaged, to a table and to JSON."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from rich.console import Console

from myriarch.account import Report, build_report
from myriarch.cli.report import read_report, report, show
from myriarch.cli.report_words import ADVICE, LEAVES_ZH, LEVELS, TERMS
from myriarch.errors import IntegrityError, UsageError
from myriarch.event.journal import encode_line
from myriarch.event.spans import LEAVES, LEVEL_OF
from myriarch.run.directory import Attempt, Contact, find_attempt, write_json
from myriarch.run.ledger_store import LedgerStore

if TYPE_CHECKING:
    from tests.account.conftest import Story


@pytest.fixture
def story_of_a_lost_node() -> Story:
    """The run that `tests/account` added up by hand."""
    import importlib.util

    path = Path(__file__).parents[1] / "account" / "conftest.py"
    spec = importlib.util.spec_from_file_location("account_stories", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    told: Story = module.node_lost()
    return told


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story_of_a_lost_node: Story) -> Attempt:
    """The folder that this run left, as the newest of the working directory."""
    monkeypatch.chdir(tmp_path)
    made = Attempt(tmp_path / "runs" / "story" / "attempts" / "0001")
    made.path.mkdir(parents=True)
    write_json(made.run, story_of_a_lost_node.resolved)
    write_json(made.emulation, {"slow-0": "50% of one core per device, by CPU quota"})
    made.journal.write_bytes(b"".join(map(encode_line, story_of_a_lost_node.records)))
    with LedgerStore(made.ledger) as store:
        store.append(story_of_a_lost_node.spans)
    return made


def test_json_is_the_report(attempt: Attempt, story_of_a_lost_node: Story, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("story", json_output=True) == 0
    out, err = capsys.readouterr()
    assert err == ""
    read = msgspec.json.decode(out, type=Report)
    expected = build_report(story_of_a_lost_node.history())
    assert (read.leaves, read.factors, read.effective) == (expected.leaves, expected.factors, expected.effective)
    assert read.incidents == expected.incidents
    assert read.files["journal"] == str(attempt.journal.relative_to(Path.cwd()))
    assert "CPU quota" in json.loads(out)["pools"]["slow"]["emulation"]


def test_every_way_to_name_a_run(attempt: Attempt) -> None:
    for name in ("", None, "story", "runs/story", str(attempt.path)):
        assert read_report(find_attempt(name or "")).run.name == "story"
        assert report(name, json_output=True) == 0
    with pytest.raises(UsageError, match="`storey` is no run") as caught:
        report("storey")
    assert "story" in caught.value.hint


def test_no_run_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no run in"):
        report("")


def test_the_table_says_what_people_ask(attempt: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("") == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in (
        "story: completed", "6/100", "Effective compute", "availability", "fault handling",
        "useful compute", "lost work", "idle reserved spare", "replace", "CPU quota",
        "node fast-1: killed by SIGKILL", "[injected]", "1.000", "20.000", "First thing to fix: repair", "journal",
    ):  # fmt: skip
        assert text in out, text
    shares = [line for line in out.splitlines() if " % " in line and "█" in line]
    assert len(shares) >= 10
    assert max(map(len, out.splitlines())) <= 200


def test_the_table_in_chinese(attempt: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
    assert report("", lang="zh") == 0
    out = capsys.readouterr().out
    for text in ("有效算力", "丢失的工作", "预留备用", "首先改进"):
        assert text in out


def test_every_word_exists_in_both_languages() -> None:
    for words in (*TERMS.values(), *LEVELS.values(), *ADVICE.values()):
        assert set(words) == {"en", "zh"}
        assert all(words.values())
    assert set(LEAVES_ZH) == set(LEAVES)
    assert set(LEVELS) == set(LEVEL_OF.values())


def test_the_words_are_the_glossary_s() -> None:
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|]*\| `([a-z_]+)` \| ([^|]+) \|", glossary, re.MULTILINE)
    assert dict(rows) == LEAVES_ZH


def test_a_torn_tail_is_what_the_writer_was_at(attempt: Attempt) -> None:
    whole = attempt.journal.read_bytes()
    attempt.journal.write_bytes(whole[:-40])
    made = read_report(attempt)
    assert made.run.outcome == "unfinished"
    assert sum(made.leaves.values()) == made.capacity_device_ns > 0


def test_damage_before_the_end_is_refused(attempt: Attempt) -> None:
    data = bytearray(attempt.journal.read_bytes())
    data[len(data) // 2] ^= 0xFF
    attempt.journal.write_bytes(data)
    with pytest.raises(IntegrityError, match="is damaged"):
        read_report(attempt)


def test_a_running_run_is_accounted_for_up_to_now(attempt: Attempt) -> None:
    records = attempt.journal.read_bytes().splitlines(keepends=True)
    attempt.journal.write_bytes(b"".join(records[:-1]))
    ended = read_report(attempt)
    write_json(attempt.contact, Contact(url="https://127.0.0.1:1", pid=os.getpid()))
    live = read_report(attempt)
    assert (ended.run.outcome, live.run.outcome) == ("unfinished", "running")
    assert live.run.end_ns > 0
    assert sum(live.leaves.values()) == live.capacity_device_ns


def test_without_a_ledger_the_journal_has_to_do(attempt: Attempt) -> None:
    whole = read_report(attempt)
    attempt.ledger.write_bytes(b"no ledger at all" * 512)
    made = read_report(attempt)
    assert any("the report rests on the journal alone" in note for note in made.notes)
    assert sum(made.leaves.values()) == made.capacity_device_ns
    assert made.leaves["useful_compute"] == whole.leaves["useful_compute"], "counted from the steps"
    attempt.ledger.unlink()
    assert read_report(attempt).leaves == made.leaves


def test_a_run_that_has_not_begun(attempt: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
    attempt.journal.write_bytes(b"")
    assert report("") == 0
    out, _ = capsys.readouterr()
    assert "not_started" in out
    assert "unknown" in out
    assert "0.0 %" not in out


def test_a_terminal_without_block_characters(attempt: Attempt) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    show(read_report(attempt), console=Console(file=stream, width=100, markup=False, highlight=False))
    stream.flush()
    assert b"####" in raw.getvalue()


def test_the_command_as_a_person_types_it(
    attempt: Attempt, myriarch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(attempt.path.parents[1], elsewhere / "runs" / "story")
    done = myriarch("report", "story", "--json", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["name"] == "story"
    wrong = myriarch("report", "nothing", cwd=elsewhere)
    assert wrong.returncode == 2
    assert "hint: there are: story" in wrong.stderr
