"""Run directories: launches, locks, and what a name means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from myriarch.errors import EnvironmentFault, UsageError
from myriarch.run.directory import Attempt, Contact, RunDirectory, find_attempt, read_json, write_json


def _journal(attempt: Attempt, at_ns: int) -> Attempt:
    attempt.journal.write_text("")
    os.utime(attempt.journal, ns=(at_ns, at_ns))
    return attempt


def test_launches_are_numbered_and_the_newest_journal_is_the_newest_run(tmp_path: Path) -> None:
    old = _journal(RunDirectory(tmp_path / "b").new_attempt(), 2_000)
    first = _journal(RunDirectory(tmp_path / "a").new_attempt(), 1_000)
    second = _journal(RunDirectory(tmp_path / "a").new_attempt(), 3_000)
    assert (first.path.name, second.path.name) == ("0001", "0002")
    assert second.run_name == "a"
    assert find_attempt(output=tmp_path).path == second.path
    assert find_attempt("a", output=tmp_path).path == second.path
    assert find_attempt("b", output=tmp_path).path == old.path
    assert find_attempt(str(tmp_path / "b")).path == old.path
    assert find_attempt(str(first.path)).path == first.path


def test_a_name_that_means_nothing_is_answered_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        find_attempt(output=tmp_path)
    _journal(RunDirectory(tmp_path / "demo").new_attempt(), 1_000)
    with pytest.raises(UsageError, match="demi") as refused:
        find_attempt("demi", output=tmp_path)
    assert "demo" in refused.value.hint


def test_one_launch_at_a_time(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "demo")
    with directory.lock(), pytest.raises(UsageError, match=str(os.getpid())), RunDirectory(directory.path).lock():
        pass
    with directory.lock():
        pass


def test_fresh_sets_checkpoints_aside_and_loses_none(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "demo")
    assert directory.set_checkpoints_aside() is None
    for number in (1, 2):
        (directory.checkpoints / "step-00000001").mkdir(parents=True)
        aside = directory.set_checkpoints_aside()
        assert aside is not None
        assert aside.name == f"checkpoints-before-000{number}"
        assert (aside / "step-00000001").is_dir()
        assert not directory.checkpoints.exists()


def test_files_are_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "controller.json"
    write_json(path, Contact(url="https://127.0.0.1:1", pid=2), mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_json(path, Contact).pid == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["controller.json"]
    path.write_text("{}")
    with pytest.raises(EnvironmentFault, match=r"controller\.json"):
        read_json(path, Contact)
