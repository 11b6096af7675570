"""What the broker's jobs would cost at least, all being known beforehand: how much there is left to save.

A linear program over hours. Run times and prices are known; any job may be stopped and moved at any time, for nothing;
devices are those that the owners' jobs leave when they are alone. What remains of the rules: nobody runs before they
come, or in two places at once; no pool gives more than it has; vouchers pay up to their caps; and the mean slowdown
stays within a limit. A job cannot end before the mean time of its work and half its shortest run (all of a schedule's
work done at full speed up to the end), which makes the slowdown linear.

Jobs of the last 5 % of device-hours, of which there are most, each count as if they had the cheapest hours of two days
for themselves. It is a lower bound for all who take what owners leave; who pushes an owner aside could be below it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.simulate.queueing import Task, simulate_queue

HOUR_S: Final = 3600.0
KEPT: Final = 0.95
"""Of the device-hours, in the program."""
SLACK_HOURS: Final = 72
"""How long after its shortest run a job of the program ends at the latest; pools are never dear for three days."""
SMALL_HOURS: Final = 48


def left_by_owners(tasks: Sequence[Task], devices: int, hours: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Mean free devices of every hour when the owners are alone."""
    wait_s = simulate_queue(tasks, Easy(Counted(devices))).wait_s
    start_s = np.array([task.job.submit_s for task in tasks]) + wait_s
    end_s = start_s + np.array([task.run_s for task in tasks])
    size = np.array([task.job.devices for task in tasks], dtype=np.float64)
    grid_s = np.arange(hours + 1) * HOUR_S
    held = np.zeros(hours + 1)
    for at_s, sign in ((start_s, 1.0), (end_s, -1.0)):  # integrals of the devices that came and went
        order = np.argsort(at_s)
        count, moment = np.cumsum(size[order]), np.cumsum(size[order] * at_s[order])
        place = np.searchsorted(at_s[order], grid_s, side="right")
        held += sign * (grid_s * np.append(0.0, count)[place] - np.append(0.0, moment)[place])
    return np.maximum(devices - np.diff(held) / HOUR_S, 0.0)


def bound(
    *,
    jobs: Sequence[tuple[float, int, Mapping[str, float]]],
    prices: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]],
    free: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]],
    vouchers: Sequence[tuple[str, float, float, float, float]],
    slowdown: float,
) -> float:
    """The least cost. `jobs`: submission in seconds, devices, run time by pool in seconds. `prices`: of a device and an
    hour. `vouchers`: pool, share, cap, first and last hour. `slowdown`: the mean that is allowed."""
    pools = list(prices)
    price = np.array([prices[pool] for pool in pools])
    net = price.copy()
    for pool, share, _, first, last in vouchers:
        hours = slice(int(first), int(last))
        net[pools.index(pool), hours] -= share * np.maximum(price[pools.index(pool), hours], 0.0)
    shortest_s = np.array([min(run.values()) for _, _, run in jobs])
    work = shortest_s * np.array([devices for _, devices, _ in jobs])
    order = np.argsort(-work, kind="stable")
    large = order[: int(np.searchsorted(np.cumsum(work[order]), KEPT * work.sum())) + 1]
    total = 0.0
    for index in order[len(large) :].tolist():
        submit_s, devices, run = jobs[index]
        first = int(submit_s // HOUR_S)
        cheapest = [net[pools.index(p), first : first + SMALL_HOURS].min() * s / HOUR_S for p, s in run.items()]
        total += devices * min(cheapest)
    columns: list[tuple[int, int, int, float, float]] = []  # job, pool, hour, work in an hour, devices
    for row, index in enumerate(large.tolist()):
        submit_s, devices, run = jobs[index]
        last = math.ceil((submit_s + shortest_s[index]) / HOUR_S) + SLACK_HOURS
        for pool, run_s in run.items():
            at, done = pools.index(pool), HOUR_S / run_s
            columns += [(row, at, hour, done, float(devices)) for hour in range(int(submit_s // HOUR_S), last)]
    row_of, pool_of, hour_of, done_of, devices_of = (np.array(column) for column in zip(*columns, strict=True))
    count, hours_all, extra = len(columns), price.shape[1], len(vouchers)
    cost = np.concatenate((price[pool_of, hour_of] * devices_of, np.full(extra, -1.0)))
    own = np.arange(count)
    submit = np.array([jobs[index][0] for index in large])
    # One place own a time; the first hour_of only from the submission on.
    keys, one = np.unique(row_of * hours_all + hour_of, return_inverse=True)
    room = np.clip((keys % hours_all + 1) - submit[keys // hours_all] / HOUR_S, 0.0, 1.0)
    places, capacity = np.unique(pool_of * hours_all + hour_of, return_inverse=True)
    given = np.array([free[pools[key // hours_all]][key % hours_all] for key in places.tolist()])
    rows = [one, len(keys) + capacity]
    cols, data, limits = [own, own], [np.ones(count), devices_of], [room, given]
    next_row = len(keys) + len(places)
    # Slowdown: (mean time of work + half the shortest run - submission) / shortest run, at most `slowdown` in the mean.
    run_h = shortest_s[large] / HOUR_S
    bounded_h = np.maximum(run_h, 10.0 / HOUR_S)
    rows.append(np.full(count, next_row))
    cols.append(own)
    data.append(done_of * (hour_of + 0.5) / bounded_h[row_of])
    base = ((submit / HOUR_S - run_h / 2) / bounded_h).sum() + (len(large) - len(jobs))
    limits.append(np.array([slowdown * len(jobs) + base + 0.5 * (1 / bounded_h).sum()]))
    for number, (pool, share, _, first, last_h) in enumerate(vouchers):
        mine = np.flatnonzero((pool_of == pools.index(pool)) & (hour_of >= first) & (hour_of < last_h))
        next_row += 1
        rows += [np.full(len(mine), next_row), np.array([next_row])]
        cols += [mine, np.array([count + number])]
        data += [-share * np.maximum(cost[mine], 0.0), np.ones(1)]
        limits.append(np.zeros(1))
    upper = coo_matrix(
        (np.concatenate(data), (np.concatenate(rows), np.concatenate(cols))), shape=(next_row + 1, count + extra)
    ).tocsr()
    equal = coo_matrix((done_of, (row_of, own)), shape=(len(large), count + extra)).tocsr()
    caps = [(0.0, 1.0)] * count + [(0.0, cap) for _, _, cap, _, _ in vouchers]
    solved = linprog(
        cost, A_ub=upper, b_ub=np.concatenate(limits), A_eq=equal, b_eq=np.ones(len(large)), bounds=caps, method="highs"
    )
    if solved.status != 0:
        return math.nan
    return total + float(solved.fun)
