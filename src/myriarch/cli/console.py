"""Where tables are drawn for people: standard output, as wide as the terminal or as a file is read."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console

WIDTH_WITHOUT_TERMINAL: Final = 110
"""Columns of what goes into a file or a pipe."""


class Output(Console):
    """Standard output. A reader that has gone away is the shell's matter, as it is for plain `print`."""

    def __init__(self) -> None:
        width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
        super().__init__(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError
