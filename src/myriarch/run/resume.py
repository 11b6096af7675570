"""Which durable checkpoint a launch goes on from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import xxhash

from myriarch.arena.manifest import scan_checkpoints, verify
from myriarch.errors import IntegrityError, UsageError
from myriarch.event.ids import Step
from myriarch.spec.run import ResolvedRun

log = logging.getLogger("myriarch.controller")

_encoder: Final = msgspec.json.Encoder(order="deterministic")


class Found(NamedTuple):
    """A checkpoint that this run can go on from."""

    step: Step
    path: str
    digest: str


def run_hash(resolved: ResolvedRun) -> str:
    """Hex xxh3-128 over what a state is the result of: model, data, batch, optimizer, seed.

    Not the fleet and not the groups: a checkpoint outlives those. Not the number of steps: a run may be prolonged.
    """
    run = resolved.run
    return xxhash.xxh3_128_hexdigest(
        _encoder.encode((resolved.model, run.data, run.batch.sequences, run.optimizer, run.seed))
    )


def newest_checkpoint(folder: Path, resolved: ResolvedRun) -> Found | None:
    """The newest one of this run whose every byte is as its manifest says. Damaged ones are passed over, and logged."""
    wanted = run_hash(resolved)
    for path, manifest in scan_checkpoints(folder):
        if manifest.run_hash != wanted:
            continue
        try:
            verify(path)
        except IntegrityError as error:
            log.error("not resumed from: %s", error)
            continue
        return Found(manifest.step, str(path), manifest.digest)
    return None


def newest_step(folder: Path, resolved: ResolvedRun) -> Step | None:
    """The step of the newest checkpoint, by the manifests alone.

    Raises UsageError when the folder holds checkpoints of another run: going on would mix them.
    """
    wanted = run_hash(resolved)
    for path, manifest in scan_checkpoints(folder):
        if manifest.run_hash != wanted:
            raise UsageError(
                f"{path} is a checkpoint of another model, data, batch, optimizer or seed than the run file's",
                hint="start over with --fresh (the checkpoints are set aside), or give the run another `name`",
            )
        return manifest.step
    return None
