"""The case of a million jobs, smaller ones like it, and how the cost of an event grows with jobs and devices.

Jobs are generated after Acme's Kalos cluster (`simulate.workload.deep_learning`), at a load of 0.85 of the fleet's
devices; gangs save every half hour and restart in five minutes, single devices save nothing. Nodes of 8 devices, 16 to
a rack and 16 racks to a pod, break at the rates of Llama 3's 54 days (`simulate.rates_published`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

import msgspec

from myriarch.schedule.easy import Easy
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.cluster_outcome import ClusterOutcome
from myriarch.simulate.queueing import Task
from myriarch.simulate.rates_draw import draw
from myriarch.simulate.rates_published import published
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning

JOBS: Final = 1_000_000
NODES: Final = 12_544
LOAD: Final = 0.85
DEVICES_PER_NODE: Final = 8
MIX: Final = "kalos"
RATES: Final = "llama3_405b"
SAVES_EVERY_S: Final = 1800.0
RESTART_S: Final = 300.0
SEED: Final = 1

JOBS_AXIS: Final = (10_000, 30_000, 100_000, 300_000, JOBS)
"""On the whole fleet."""
NODES_AXIS: Final = (128, 512, 2048, 8192, NODES)
"""With `JOBS_BESIDE` jobs."""
JOBS_BESIDE: Final = 30_000


def million(jobs: int = JOBS, nodes: int = NODES) -> ClusterOutcome:
    """So many jobs on so many nodes, to the end of the last one."""
    pool = PoolLayout(
        name="kalos-like", nodes=nodes, devices_per_node=DEVICES_PER_NODE, nodes_per_rack=16, racks_per_pod=16
    )
    tasks = deep_learning(jobs, MIXES[MIX], devices=pool.devices, load=LOAD, seed=SEED)
    breakdowns = draw(published(RATES), [pool], until_s=tasks[-1].job.submit_s, seed=SEED)
    return simulate_cluster(saving(tasks), Easy(Placed([pool])), breakdowns=breakdowns)


def saving(tasks: Sequence[Task]) -> Iterator[Task]:
    """Gangs have checkpoints."""
    for task in tasks:
        if task.job.devices == 1:
            yield task
        else:
            job = msgspec.structs.replace(task.job, saves_every_s=SAVES_EVERY_S, restart_s=RESTART_S)
            yield Task(job=job, run_s=task.run_s)


def flatness() -> list[dict[str, Any]]:
    """Cost per event over jobs and over devices; each row is a run of its own, in this process."""
    runs = [("jobs", jobs, NODES) for jobs in JOBS_AXIS] + [("devices", JOBS_BESIDE, nodes) for nodes in NODES_AXIS]
    rows: list[dict[str, Any]] = []
    for axis, jobs, nodes in runs:
        begin = time.process_time()
        outcome = million(jobs, nodes)
        cpu_s = time.process_time() - begin
        rows.append(
            {
                "axis": axis,
                "jobs": jobs,
                "devices": nodes * DEVICES_PER_NODE,
                "events": outcome.events,
                "cpu_s": cpu_s,
                "event_s": cpu_s / outcome.events,
                "waiting_most": outcome.waiting_most,
            }
        )
    return rows


WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 40, 44
NEUTRAL: Final = "#808080"
"""Text and axes: enough contrast on white and on black."""
COLOUR: Final = "#0072B2"
"""Blue of Okabe and Ito ("Color Universal Design", 2008)."""


def picture(rows: Sequence[dict[str, Any]], *, machine: str) -> str:
    """Two panels side by side, SVG: microseconds of one core by event, over jobs and over devices."""
    top_us = 50.0 * math.ceil(max(row["event_s"] for row in rows) * 1e6 / 50.0)
    panels = [
        _panel([row for row in rows if row["axis"] == axis], axis, at * WIDTH, top_us)
        for at, axis in enumerate(("jobs", "devices"))
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12" fill="{NEUTRAL}">'
    )
    title = f"<title>Cost of an event over jobs and devices: {escape(machine)}</title>"
    return "\n".join([head, title, *panels, "</svg>", ""])


def _panel(rows: Sequence[dict[str, Any]], axis: str, left: int, top_us: float) -> str:
    low, high = (math.log10(edge(row[axis] for row in rows)) for edge in (min, max))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return left + LEFT + (math.log10(value) - low) / (high - low) * width

    def y(microseconds: float) -> float:
        return TOP + height * (1.0 - microseconds / top_us)

    other = f"{rows[0]['devices']:,} devices" if axis == "jobs" else f"{rows[0]['jobs']:,} jobs"
    marks = [f'<text x="{left + LEFT}" y="{TOP - 16}">microseconds by event, {other}</text>']
    marks += [
        f'<line x1="{left + LEFT}" x2="{left + WIDTH - RIGHT}" y1="{y(tick_us):.1f}" y2="{y(tick_us):.1f}" '
        f'stroke="{NEUTRAL}" stroke-opacity="0.4"/>'
        f'<text x="{left + LEFT - 6}" y="{y(tick_us) + 4:.1f}" text-anchor="end">{tick_us:g}</text>'
        for tick_us in (0.0, top_us / 2, top_us)
    ]
    points = [(x(row[axis]), y(row["event_s"] * 1e6), row) for row in rows]
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down, _ in points)
    marks.append(f'<polyline points="{path}" fill="none" stroke="{COLOUR}" stroke-width="2"/>')
    marks += [
        f'<circle cx="{across:.1f}" cy="{down:.1f}" r="4" fill="{COLOUR}"/>'
        f'<text x="{across:.1f}" y="{down - 9:.1f}" text-anchor="middle">{row["event_s"] * 1e6:.0f}</text>'
        f'<text x="{across:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{_short(row[axis])}</text>'
        for across, down, row in points
    ]
    marks.append(f'<text x="{left + LEFT + width / 2:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{axis}</text>')
    return "\n".join(marks)


def _short(count: int) -> str:
    return f"{count / 1e6:g}M" if count >= 10**6 else f"{count / 1e3:.3g}k"
