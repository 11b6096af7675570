"""The edge between Myriarch and its caller: every way a verb can end becomes words on stderr and an exit code.

    returns                  its code; None is 0
    MyriarchError            `error: ...` and `hint: ...`; the error's own code
    Ctrl-C                   130; a training run has taken its last snapshot before this is reached
    reader of stdout left    141, as the shell reports a program ended by SIGPIPE
    stdout's disk is full    1
    anything else            1; a defect of Myriarch, shown with its whole traceback

Nothing below a shell catches these: a verb raises, and this says it once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from typing import Final

from myriarch.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, MyriarchError, UserScriptError

EXIT_BROKEN_PIPE = 141
"""128 + SIGPIPE."""
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Standard output is a file that takes no more: what was asked for is lost, and the caller has to know."""


def at_edge(verb: Callable[[], int | None]) -> int:
    """Call `verb` and return the exit code, having said on stderr what there is to say."""
    if sys.stdout is None:  # closed by whoever started this (`>&-`): there is nobody to tell
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  as long as the process
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
    except OSError as error:
        if error.errno not in FULL:
            return _unexpected(error)
        _forget_stdout()
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  the shell's edge: nothing above would show it
        return _unexpected(error)
    return EXIT_OK if code is None else code


def _unexpected(error: Exception) -> int:
    traceback.print_exception(error)
    print(f"error: unexpected {type(error).__name__}: {error}", file=sys.stderr)
    print("hint: this is a defect of Myriarch; please report it with the lines above", file=sys.stderr)
    return EXIT_FAILED


def _flush() -> None:
    """Write what is left. A terminal that was closed meanwhile reads no more: what the verb did counts all the same."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno in FULL:
            raise
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
