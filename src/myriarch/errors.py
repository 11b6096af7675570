"""Every error a user can meet, drawn once.

    MyriarchError                       exit 1
      UsageError                        exit 2   the command line or the state of the machine it asks for
      SpecError                         exit 2   a fleet, model or run file
      EnvironmentFault                  exit 1   this machine cannot do it: no torch, port in use, shared memory full
      UserScriptError                   exit 1   the training script raised: reported, never restarted for ever
      IntegrityError                    exit 1   bytes that do not match their hashes
      WireError                         exit 1   a peer broke the protocol or failed to authenticate
        AuthenticationError
      LedgerError                       exit 1   device time that does not add up

A message names culprit, value and remedy, in this order.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_DEGRADED = 3
EXIT_INTERRUPTED = 130
"""128 + SIGINT: ended by Ctrl-C or SIGTERM after a last snapshot; the same command resumes."""


class MyriarchError(Exception):
    """Base of all. `exit_code` is what the command line exits with; `hint` is printed on its own line."""

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MyriarchError):
    """The command was asked for something that is not there or does not fit."""

    exit_code = EXIT_USAGE


class SpecError(MyriarchError):
    """A spec file is wrong. `path` is the place inside it, like `pools[1].chip`."""

    exit_code = EXIT_USAGE

    def __init__(self, message: str, *, source: str = "", path: str = "", hint: str = "") -> None:
        where = ": ".join(part for part in (source, path) if part)
        super().__init__(f"{where}: {message}" if where else message, hint=hint)
        self.source = source
        self.path = path


class EnvironmentFault(MyriarchError):
    """This machine lacks something the work needs."""


class UserScriptError(MyriarchError):
    """A training script raised. `traceback` is the script's own."""

    def __init__(self, message: str, *, traceback: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.traceback = traceback


class IntegrityError(MyriarchError):
    """Stored or received bytes differ from their hashes."""


class WireError(MyriarchError):
    """A connection carried something outside the protocol."""


class AuthenticationError(WireError):
    """The other side does not hold this run's token."""


class LedgerError(MyriarchError):
    """The ledger's leaves do not sum to its capacity, or its input cannot be a history."""
