"""Goodput: how fast a job learns, not how fast it steps (Pollux: Qiao et al., OSDI 2021; arXiv:2008.12260).

    goodput(K, m, s)    = throughput(K, m, s) x efficiency(M)          M = K m (s + 1), the batch
    throughput          = M / T_iter
    T_iter              = s T_grad + (T_grad^gamma + T_sync^gamma)^(1/gamma)
    T_grad              = alpha_grad + beta_grad m
    T_sync              = 0                               one device
                          alpha_local + beta_local (K - 2)      on one node
                          alpha_node  + beta_node  (K - 2)      on several
    efficiency(M)       = (phi + M0) / (phi + M)

with K devices, `m` samples of each by the micro-step, `s` further micro-steps before an update, and `phi` the gradient
noise scale: at batch M0 a sample teaches as much as it can (efficiency 1), far beyond phi a larger one teaches nothing.
`gamma` between 1 (no overlap of computing and synchronising) and 10 (nearly the longer of the two).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from myriarch.errors import SpecError
from myriarch.event.base import Value

BATCHES_TRIED: Final = 50
"""Batches between the smallest and the largest, evenly on a logarithmic scale, as in Pollux' public code."""


class StepTime(Value, frozen=True, kw_only=True):
    """Seconds of a job's step on one kind of device, in Pollux' seven parameters."""

    alpha_grad_s: float
    beta_grad_s: float
    """By sample."""
    alpha_local_s: float = 0.0
    beta_local_s: float = 0.0
    """By device past the second."""
    alpha_node_s: float = 0.0
    beta_node_s: float = 0.0
    gamma: float = 1.0

    def grad_s(self, samples: float) -> float:
        """One micro-step of so many samples on a device."""
        return self.alpha_grad_s + self.beta_grad_s * samples

    def sync_s(self, devices: int, *, nodes: int) -> float:
        """Synchronising gradients of so many devices."""
        if devices == 1:
            return 0.0
        if nodes == 1:
            return self.alpha_local_s + self.beta_local_s * (devices - 2)
        return self.alpha_node_s + self.beta_node_s * (devices - 2)

    def iteration_s(self, devices: int, *, nodes: int, samples: float, accumulated: int) -> float:
        """One update of the weights."""
        grad, sync = self.grad_s(samples), self.sync_s(devices, nodes=nodes)
        longer, shorter = max(grad, sync), min(grad, sync)
        # The same norm, without powers that overflow: longer (1 + (shorter / longer)^gamma)^(1/gamma).
        both = longer * (1.0 + (shorter / longer) ** self.gamma) ** (1.0 / self.gamma) if longer > 0 else 0.0
        return accumulated * grad + both


class Learning(Value, frozen=True, kw_only=True):
    """How a job's progress depends on its batch."""

    batch: float
    """M0: the batch that its user chose."""
    noise_scale: float
    """phi, in samples; measured while it trains, and growing as it converges."""
    batch_most: float
    """Past it the user trusts no learning rate."""
    samples_most: float
    """Of one device by the micro-step: what fits its memory."""

    def efficiency(self, batch: float) -> float:
        """Progress of a sample, against one at the user's batch."""
        return (self.noise_scale + self.batch) / (self.noise_scale + batch)


class Setting(Value, frozen=True, kw_only=True):
    """The best way to use some devices."""

    goodput: float
    """Samples by the second, each as good as one at the user's batch."""
    samples: float
    accumulated: int
    batch: float


def best_setting(step: StepTime, learning: Learning, *, devices: int, nodes: int) -> Setting:
    """The batch with the most goodput on these devices (Pollux' equation for a job's own tuning).

    Raises SpecError where even the user's batch has no room: more devices than samples.
    """
    if devices > learning.batch_most:
        raise SpecError(f"{devices} devices for a batch of at most {learning.batch_most:g}; use fewer")
    least = max(learning.batch, float(devices))
    best: Setting | None = None
    for batch in np.geomspace(least, learning.batch_most, BATCHES_TRIED):
        local = float(batch) / devices
        accumulated = max(math.ceil(local / learning.samples_most - 1e-9), 1) - 1
        samples = local / (accumulated + 1)
        seconds = step.iteration_s(devices, nodes=nodes, samples=samples, accumulated=accumulated)
        value = float(batch) / seconds * learning.efficiency(float(batch))
        if best is None or value > best.goodput * (1 + 1e-12):
            best = Setting(goodput=value, samples=samples, accumulated=accumulated, batch=float(batch))
    assert best is not None
    return best
