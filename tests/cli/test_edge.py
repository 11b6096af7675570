"""How a verb ends when nobody takes what it prints."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from myriarch.cli.edge import at_edge
from myriarch.errors import EXIT_FAILED, EXIT_OK


class _Full(io.StringIO):
    """A file on a disk that is full, noticed when it is flushed."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_a_closed_stdout_is_no_defect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert at_edge(lambda: print("nobody reads", flush=True)) == EXIT_OK
    sys.stdout.close()
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_told_and_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", _Full())
    assert at_edge(lambda: print("{}")) == EXIT_FAILED
    assert capsys.readouterr().err == f"error: the output cannot be written: {os.strerror(errno.ENOSPC)}\n"


def test_another_error_of_the_system_is_a_defect(capsys: pytest.CaptureFixture[str]) -> None:
    def verb() -> None:
        raise OSError(errno.EACCES, "no")

    assert at_edge(verb) == EXIT_FAILED
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "unexpected PermissionError" in said
