"""What people are told, and what happens when nobody listens."""

from __future__ import annotations

import os
from typing import IO, cast

from rich.console import Console

from myriarch.run.progress import ProgressLine, Shown, Talk


def test_a_reader_who_leaves_ends_no_run() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as stream:
        line = ProgressLine(steps=3, console=Console(file=cast(IO[str], Talk(stream)), highlight=False))
        with line:
            line.say("heard")
            assert os.read(reading, 100) == b"heard\n"
            os.close(reading)
            for step in range(3):
                line.say("not heard")
                line.show(Shown(phase="running", step=step, steps=3))
        stream.write("nor is this, and it is no error\n")
