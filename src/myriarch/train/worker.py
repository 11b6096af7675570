"""A worker process: attach, train, and say why it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import traceback
from typing import Final, Literal

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException

from myriarch.errors import MyriarchError, SpecError, UsageError, UserScriptError, WireError
from myriarch.train.agent_link import AgentGone, AgentLink
from myriarch.train.counter import key_of
from myriarch.train.session import AGENT_FD_ENV, Session, attach
from myriarch.train.timeline import Timeline
from myriarch.train.trainer import Trainer
from myriarch.wire.frames import Channel
from myriarch.wire.worker import Attach, Failed, FromAgent
from myriarch.wire.zygote import ForkWorker

Cause = Literal["user_error", "collective_error"]

_COLLECTIVE_TEXT: Final = re.compile(
    r"gloo|nccl|xccl|hccl|Connection (closed|reset|refused)|Broken pipe|Timed out waiting|process group", re.IGNORECASE
)
"""gloo's errors are plain RuntimeErrors: their text is all there is to know them by."""


def main(job: ForkWorker, *, forked_ns: int) -> int:
    """Returns the exit code: 0 when the agent ended it, 1 when it failed and has said why."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(job.socket_path)
    channel: Channel[FromAgent] = Channel(sock, decode_type=FromAgent)
    os.environ[AGENT_FD_ENV] = str(os.dup(sock.fileno()))
    attachment = Attach(token=job.token, pid=os.getpid(), group=job.group, rank=job.rank, incarnation=job.incarnation)
    try:
        AgentLink(channel).send(attachment)
        with attach(timeline=Timeline(start_ns=forked_ns)) as session:
            return _run(session, channel)
    except AgentGone as gone:
        return _nobody_left(gone)
    except MyriarchError as error:
        return _fail(channel, error)


def _run(session: Session, channel: Channel[FromAgent]) -> int:
    try:
        torch.manual_seed(key_of("torch", session.run.seed, session.plan.rank) >> 1)
        session.join()
        Trainer(session).train()
    except AgentGone as gone:
        session.last_words()
        return _nobody_left(gone)
    except Exception as error:  # noqa: BLE001 - the edge of the process: whatever it is, the agent is to know
        session.last_words()
        return _fail(channel, error)
    return 0


def _nobody_left(gone: AgentGone) -> int:
    """An end in order; the log says why, should the agent be there after all."""
    logging.getLogger("myriarch.worker").info("ends: %s", gone)
    return 0


def _fail(channel: Channel[FromAgent], error: Exception) -> int:
    detail = describe(error)
    logging.getLogger("myriarch.worker").error("%s", detail)
    with contextlib.suppress(WireError):  # an agent that is gone need not be told
        channel.send(Failed(cause=cause_of(error), detail=detail))
    return 1


def cause_of(error: BaseException) -> Cause:
    """Whose fault it is: the script's (or its data's), or the fleet's, which a restart can cure."""
    if isinstance(error, SpecError | UsageError | UserScriptError):
        return "user_error"
    if isinstance(error, MyriarchError | dist.DistError | CheckpointException | ConnectionError | TimeoutError):
        return "collective_error"
    if isinstance(error, RuntimeError) and _COLLECTIVE_TEXT.search(str(error)):
        return "collective_error"
    return "user_error"


def describe(error: BaseException) -> str:
    """For people: our own errors by their words, others by their traceback."""
    if isinstance(error, MyriarchError):
        return f"{error.message}\nhint: {error.hint}" if error.hint else error.message
    return "".join(traceback.format_exception(error))
