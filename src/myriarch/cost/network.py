"""Seconds of collectives over a scale-up link and a network.

Rings inside the domain, then rings over nodes in which every device of the domain carries its share on its own network
card (Thakur, Rabenseifner and Gropp, IJHPCA 19, 2005; NCCL does so): reducing or gathering B bytes over a group of
`inside * nodes` devices takes

    (inside - 1) / inside * B / link  +  (nodes - 1) / nodes * B / inside / network

and an all-reduce is one of each. `flat`: the part over nodes without the division by `inside`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from myriarch.cost.arrays import Array, Flag, Real, choose
from myriarch.cost.parameters import Parameters
from myriarch.cost.split import Machine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Effective rates of a machine's links."""

    link_bytes_per_s: Array
    network_bytes_per_s: Array
    link_latency_s: float
    network_latency_s: Real
    domain_devices: Real
    link_axes: Real

    @classmethod
    def of(cls, machine: Machine, p: Parameters) -> Network:
        return cls(
            link_bytes_per_s=np.multiply(machine.link_bandwidth_bytes_per_s, p.link_share),
            network_bytes_per_s=np.multiply(machine.network_bandwidth_bytes_per_s, p.network_share),
            link_latency_s=p.link_latency_s,
            network_latency_s=np.maximum(p.network_latency_s, machine.network_latency_s),
            domain_devices=machine.link_domain_devices,
            link_axes=machine.link_axes,
        )

    def inside(self, group: Real, stride: Real) -> Array:
        """Members of a group in one domain, when consecutive members are `stride` devices apart."""
        return np.clip(np.floor(np.divide(self.domain_devices, stride)), 1.0, group)

    def ring_bytes_per_s(self, inside: Array) -> Array:
        """Rate of a ring over `inside` devices. In a torus, one that is not longer than an axis has its links only."""
        along_one = np.less_equal(inside, np.power(self.domain_devices, 1.0 / np.asarray(self.link_axes)) + 0.5)
        rate: Array = self.link_bytes_per_s / choose(along_one, self.link_axes, 1.0)
        return rate

    def gather_s(self, size_bytes: Real, group: Real, *, stride: Real, flat: Flag = 0.0) -> Array:
        """Seconds to gather (or reduce and scatter) a buffer of `size_bytes` over `group` devices."""
        inside = self.inside(group, stride)
        nodes = np.maximum(np.divide(group, inside), 1.0)
        lanes = choose(flat, 1.0, inside)
        seconds: Array = (
            (inside - 1.0) / inside * size_bytes / self.ring_bytes_per_s(inside)
            + (nodes - 1.0) / nodes * size_bytes / lanes / self.network_bytes_per_s
            + (inside - 1.0) ** 0.5 * self.link_latency_s
            + (nodes - 1.0) ** 0.5 * self.network_latency_s
        )
        return seconds

    def exchange_s(self, size_bytes: Real, group: Real, *, stride: Real, copies: Real, once: Flag = 1.0) -> Array:
        """Seconds of an all-to-all in which every device sends `size_bytes`, each token up to `copies` times.

        `once`: a token goes to a node once, however many of its experts live there, and is spread over the link inside
        (DeepSeek-V3, arXiv:2412.19437, 3.2.2); otherwise each copy goes by itself.
        """
        inside = self.inside(group, stride)
        nodes = np.maximum(np.divide(group, inside), 1.0)
        # Nodes, of all, that at least one of `copies` experts drawn at random lives on.
        reached = choose(once, nodes * (1.0 - (1.0 - 1.0 / nodes) ** copies), copies)
        outside = np.where(nodes > 1, reached * (nodes - 1.0) / nodes / copies, 0.0)
        over_link = size_bytes * (inside - 1.0) / inside / self.link_bytes_per_s
        over_network = size_bytes * outside / self.network_bytes_per_s
        latency = choose(np.greater(group, 1), self.link_latency_s, 0.0) + np.where(
            nodes > 1, self.network_latency_s, 0
        )
        seconds: Array = np.where(np.greater(group, 1), np.maximum(over_link, over_network) + latency, 0.0)
        return seconds

    def send_s(self, size_bytes: Real, *, stride: Real) -> Array:
        """Seconds to send `size_bytes` to the device `stride` away."""
        near = np.greater(self.domain_devices, stride)
        rate = np.where(near, self.link_bytes_per_s, self.network_bytes_per_s)
        return np.divide(size_bytes, rate) + np.where(near, self.link_latency_s, self.network_latency_s)
