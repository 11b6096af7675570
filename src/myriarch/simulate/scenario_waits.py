"""What the jobs of a scenario would have been told of their wait, and how right that would have been.

Nothing of the simulation changes: its scheduler is recorded, and the record read as a live one would be
(`schedule.waits_stream`). Scored are jobs that were told once anything had been learnt. A forecast that was not judged
when the scenario ended, because its job had not started and its time was not up, counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from myriarch.errors import IntegrityError
from myriarch.event.base import Value
from myriarch.schedule.stream_format import Entry
from myriarch.schedule.waits import AT_ONCE_S, LEVELS
from myriarch.schedule.waits_stream import Told, Watch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Quantile(Value, frozen=True, kw_only=True):
    """How a quantile came out, as shares. It is right where at most `level` waits are below it and at least `level` are
    within it; where many waits are nothing at all these two differ."""

    level: float
    jobs: int
    """Of which it is known by now whether they waited longer."""
    below: float
    within: float
    told: float
    """Of the jobs, that were told to wait: more than a second."""
    told_within: float | None
    """Of those, that waited no longer. None: nobody was told to wait."""


class Calibration(Value, frozen=True, kw_only=True):
    """How right forecasts were."""

    scored: int
    """Jobs that were told once anything had been learnt."""
    quantiles: tuple[Quantile, ...]
    """P50 and P90; empty: nothing had been learnt."""
    loss: float | None
    """Mean quantile loss of log(1 + wait), P50 and P90 added up, of those scored that started."""


class WaitsPart(Value, frozen=True, kw_only=True):
    """Queue waits as they would have been forecast."""

    estimates: bool
    """Whether run times were learnt with the users' own estimates: made-up ones would tell the answer."""
    calibration: Calibration
    jobs: tuple[Told, ...]
    """All of them but those that were refused, in the order of submission."""


def watched(entries: Sequence[Entry], *, estimates: bool) -> Watch:
    """A queue, seen through its stream. Raises IntegrityError for a stream that does not say of what it is."""
    if not entries or entries[0].opening is None:
        raise IntegrityError("the stream has no opening record", hint="it was cut off at its begin")
    watch = Watch(devices=entries[0].opening.devices, estimates=estimates)
    for entry in entries:
        watch.hear(entry)
    return watch


def waits_part(entries: Sequence[Entry], *, estimates: bool, end_s: float) -> WaitsPart:
    """Forecasts and how they came out, by the end of a scenario."""
    told = watched(entries, estimates=estimates).told
    return WaitsPart(estimates=estimates, calibration=calibration_of(told, end_s=end_s), jobs=told)


def calibration_of(told: Sequence[Told], *, end_s: float) -> Calibration:
    """How forecasts came out by an instant."""
    scored = [one for one in told if one.learnt_from]
    started = [one for one in scored if one.wait_s is not None]
    return Calibration(
        scored=len(scored),
        quantiles=_quantiles(scored, end_s=end_s),
        loss=loss(_said(started), np.array([one.wait_s or 0.0 for one in started])) if started else None,
    )


def _quantiles(told: Sequence[Told], *, end_s: float) -> tuple[Quantile, ...]:
    started = np.array([one.wait_s is not None for one in told], dtype=bool)
    wait_s = np.array([end_s - one.submit_s if one.wait_s is None else one.wait_s for one in told])
    found = []
    for level, said_s in zip(LEVELS, _said(told), strict=True):
        known = started | (wait_s > np.maximum(said_s, AT_ONCE_S))
        if known.any():
            found.append(quantile(level, said_s[known], wait_s[known]))
    return tuple(found)


def outcomes(said_s: Floats, wait_s: Floats) -> tuple[Bools, Bools]:
    """By job, whether its wait was below a quantile, and within it. Waits of a second count as none."""
    at_once = (said_s <= AT_ONCE_S) & (wait_s <= AT_ONCE_S)
    return (wait_s < said_s) & ~at_once, (wait_s <= said_s) | at_once


def quantile(level: float, said_s: Floats, wait_s: Floats) -> Quantile:
    """How a quantile of one or more jobs came out."""
    below, within = outcomes(said_s, wait_s)
    told = said_s > AT_ONCE_S
    return Quantile(
        level=level,
        jobs=len(said_s),
        below=float(below.mean()),
        within=float(within.mean()),
        told=float(told.mean()),
        told_within=float(within[told].mean()) if told.any() else None,
    )


def loss(said: Sequence[Floats], wait_s: Floats) -> float:
    """Mean quantile loss of log(1 + wait), of all `LEVELS` added up (Koenker and Bassett, Econometrica 1978)."""
    logs = np.log1p(wait_s)
    errors = [logs - np.log1p(said_s) for said_s in said]
    return float(
        sum(
            np.maximum(level * error, (level - 1.0) * error).mean() for level, error in zip(LEVELS, errors, strict=True)
        )
    )


def _said(told: Sequence[Told]) -> tuple[Floats, Floats]:
    return np.array([one.p50_s for one in told]), np.array([one.p90_s for one in told])
