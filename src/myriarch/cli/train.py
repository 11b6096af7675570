"""`myriarch train RUN`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Final

from myriarch.cli.files import load_run
from myriarch.errors import EXIT_DEGRADED, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserScriptError
from myriarch.run.launcher import Ended, run_training
from myriarch.spec.run import ResolvedRun

EXIT_OF_OUTCOME: Final = {
    "completed": EXIT_OK,
    "degraded": EXIT_DEGRADED,
    "interrupted": EXIT_INTERRUPTED,
    "failed": EXIT_FAILED,
    "user_error": EXIT_FAILED,
}


def train(run_file: str | Path, *, fresh: bool) -> int:
    """Train, print the report, say where the files are. Returns the exit code."""
    resolved = load_run(Path(run_file))
    _look_at_text(resolved)
    ended = run_training(resolved, fresh=fresh)
    if ended.outcome.outcome == "user_error":
        raise UserScriptError(
            f"the training script raised at step {ended.outcome.step}; it was not started again",
            traceback=ended.outcome.detail,
            hint=f"its output is in {ended.attempt.logs}",
        )
    with contextlib.suppress(OSError):  # a terminal that was closed meanwhile changes nothing about how the run ended
        _report(ended)
        _tell(ended)
    return EXIT_OF_OUTCOME[ended.outcome.outcome]


def _look_at_text(resolved: ResolvedRun) -> None:
    """Read the corpus as the workers will, before anything starts: what is wrong with it is said at once."""
    from myriarch.train.data import Corpus, read_corpus

    run = resolved.run
    Corpus(
        read_corpus(run.data),
        context_tokens=resolved.model.context_tokens,
        sequences=run.batch.sequences,
        seed=run.seed,
        source=run.data.source,
    )


def _report(ended: Ended) -> None:
    if not ended.attempt.journal.exists():
        return
    from myriarch.cli.report import report

    report(str(ended.attempt.path), json_output=False)


def _tell(ended: Ended) -> None:
    """The end in words, on stderr: stdout is the report's, which says where the files are."""
    outcome = ended.outcome
    why = outcome.detail or outcome.reason
    print(f"{outcome.outcome} at step {outcome.step}" + (f": {why}" if why else ""), file=sys.stderr)
    if outcome.outcome in ("interrupted", "failed"):
        print("the same command goes on from the newest checkpoint; --fresh starts over", file=sys.stderr)
