"""Verbs for people: `myriarch VERB ...`.

What is asked for most often, the overview, must come at once: it is drawn here from one table, and nothing heavier than
`sys` is imported for it. Everything else is `cli.app`'s, and what a verb needs is imported when the verb is called.
"""

from __future__ import annotations

import io
import sys
from typing import Final

VERBS: Final[dict[str, str]] = {
    "train": "Train the reference model of a run file, through failures.",
    "report": "Where every device-second of a run went.",
    "chaos": "Inflict a fault on a running fleet: kill, stop or slow a node or worker.",
    "plan": "The best ways to train a model on a fleet: time, memory, cost, energy, and why.",
    "walls": "How energy, reliability and parallelism bound a growing fleet.",
    "match": "Which pool runs which job, when and at what price (算力撮合).",
    "simulate": "A fleet, a workload, faults: what happens, under which policy.",
    "validate": "Predicted step times beside published measurements, by source.",
    "doctor": "What this machine offers, measured, and what it lacks.",
    "schema": "JSON Schema of the files that Myriarch reads and writes.",
    "version": "Version of Myriarch.",
}
"""Every verb and its one line, in the order of the overview."""

EXIT_CODES: Final = "0 ok, 1 failed, 2 wrong usage or spec, 3 degraded or something missing, 130 interrupted"


def overview() -> str:
    """What `myriarch --help` prints."""
    width = max(map(len, VERBS))
    lines = [
        "Usage: myriarch VERB [OPTIONS]",
        "",
        "One effective training system out of unlike, unreliable, expensive accelerators.",
        "",
        "Verbs:",
        *(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items()),
        "",
        "`myriarch VERB --help` tells more. Try: myriarch train examples/two-pools/run.yaml",
        f"Exit codes: {EXIT_CODES}.",
    ]
    return "\n".join(lines)


def main() -> int:
    """The command `myriarch`. Returns its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without our characters shows others, not a traceback
    arguments = sys.argv[1:]
    if not arguments:
        print(overview(), file=sys.stderr)
        return 2
    if arguments in (["--help"], ["-h"], ["help"]):
        from myriarch.cli.edge import at_edge

        return at_edge(lambda: print(overview()))
    from myriarch.cli.app import run

    return run(arguments)
