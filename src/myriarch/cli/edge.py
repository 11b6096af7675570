"""The edge between Myriarch and its caller: every way a verb can end becomes words on stderr and an exit code.

    returns                  its code; None is 0
    MyriarchError            `error: ...` and `hint: ...`; the error's own code
    Ctrl-C                   130; a training run has taken its last snapshot before this is reached
    reader of stdout left    141, as the shell reports a program ended by SIGPIPE
    anything else            1; a defect of Myriarch, shown with its whole traceback

Nothing below a shell catches these: a verb raises, and this says it once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from myriarch.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, MyriarchError, UserScriptError

EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE."""


def at_edge(verb: Callable[[], int | None]) -> int:
    """Call `verb` and return the exit code, having said on stderr what there is to say."""
    try:
        code = verb()
        _flush()
    except MyriarchError as error:
        say(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001  the shell's edge: nothing above would show it
        traceback.print_exc()
        print(f"error: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print("hint: this is a defect of Myriarch; please report it with the lines above", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK if code is None else code


def _flush() -> None:
    """Write what is left. A terminal that was closed meanwhile reads no more: what the verb did counts all the same."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        _forget_stdout()


def _forget_stdout() -> None:
    """The interpreter flushes stdout once more at exit: give it somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(error: MyriarchError) -> None:
    """Print an error for people: the script's traceback if it has one, the error, the way out."""
    if isinstance(error, UserScriptError) and error.traceback:
        print(error.traceback.rstrip(), file=sys.stderr)
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
