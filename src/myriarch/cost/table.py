"""Seconds of one micro-batch through one layer and through the head: what a step is composed of.

A table depends on the model, the machine, the software, and of the split on `tp`, `cp`, `ep`, `expert_tp`,
`sequence_parallel`, `micro_batch`, `sequence`, `recompute`, `selective`, `narrow_share`, `narrow_bytes` and
`offload_activations`; not on the pipeline, the replicas or the batch. So a search makes it once for the few thousand
values of the former and composes it (`cost.step`) with the millions of the latter.

Each pass takes a soft maximum of what the device computes and what the host launches: within a layer some kernels are
longer than their launch, others shorter. Communication that runs beside compute is hidden up to
`overlap_reach` of that compute and slows it by `contention` of what is hidden; the rest is exposed.
"""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np

from myriarch.cost.activations import Footprint
from myriarch.cost.arrays import Array, Real
from myriarch.cost.layer import Layer, Setting, Times, attention_block, dense_block, mixture_block, vocabulary_layer
from myriarch.cost.offload import activations_s
from myriarch.cost.parameters import Parameters

FORWARD_SHARE: Final = 1.0 / 3.0
"""Of a layer's time: the backward pass has two products for each of the forward's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Seconds of one micro-batch by kind, some passes together; communication as far as it is exposed."""

    matmul_s: Array
    attention_s: Array
    stream_s: Array
    launch_s: Array
    tp_s: Array
    cp_s: Array
    ep_s: Array

    @property
    def compute_s(self) -> Array:
        return self.matmul_s + self.attention_s + self.stream_s

    @property
    def total_s(self) -> Array:
        total: Array = self.compute_s + self.launch_s + self.tp_s + self.cp_s + self.ep_s
        return total

    def plus(self, other: Parts, share: Real = 1.0) -> Parts:
        """Both, the other by `share`."""
        names = [field.name for field in dataclasses.fields(self)]
        return Parts(**{name: getattr(self, name) + np.multiply(share, getattr(other, name)) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Seconds of one micro-batch on one device."""

    layer: Parts
    """Forward and backward through the mean layer of the model."""
    again: Parts
    """What of the mean layer is computed a second time."""
    head: Parts
    """Forward and backward through embedding, output head and loss."""
    offload_s: Array
    """Of the mean layer's activations to the host's memory and back: what is not hidden."""

    @classmethod
    def of(cls, setting: Setting) -> Table:
        d = setting.decoder
        mixture_share = d.mixture_layers / d.layers
        shares = ((attention_block, 1.0), (dense_block, 1.0 - mixture_share), (mixture_block, mixture_share))
        layer, again = _nothing(), _nothing()
        for block, share in shares:
            if np.any(share):
                once, repeated = _block(setting, block(setting))
                layer, again = layer.plus(once, share), again.plus(repeated, share)
        forward, backward = vocabulary_layer(setting)
        head = _pass(setting, forward).plus(_pass(setting, backward))
        return cls(layer=layer, again=again, head=head, offload_s=_offload_s(setting, layer, again))

    @property
    def layer_s(self) -> Array:
        """Everything that one layer takes."""
        return self.layer.total_s + self.again.total_s + self.offload_s

    @property
    def head_s(self) -> Array:
        return self.head.total_s


def _nothing() -> Parts:
    zero = np.zeros(())
    return Parts(**{field.name: zero for field in dataclasses.fields(Parts)})


def _offload_s(setting: Setting, layer: Parts, again: Parts) -> Array:
    if not np.any(setting.split.offload_activations):
        return np.zeros(())
    footprint = Footprint.of(setting.decoder, split=setting.split, software=setting.software)
    forward_s = FORWARD_SHARE * layer.total_s
    return activations_s(
        footprint.offloaded_bytes,
        forward_s=forward_s,
        backward_s=layer.total_s - forward_s + again.total_s,
        machine=setting.machine,
        memory_bytes_per_s=setting.rates.memory_bytes_per_s,
        p=setting.parameters,
    )


def exposed_s(comm_s: Array, window_s: Array, overlap: Real, p: Parameters) -> Array:
    """Seconds that communication adds when the share `overlap` of it may run beside `window_s` of compute."""
    hidden = np.minimum(comm_s * np.asarray(overlap), p.overlap_reach * window_s)
    exposed: Array = comm_s - (1.0 - p.contention) * hidden
    return exposed


def _pass(setting: Setting, times: Times) -> Parts:
    software, p = setting.software, setting.parameters
    tp_s = exposed_s(times.tp_s, times.matmul_s, software.tp_overlap, p)
    ep_s = exposed_s(times.ep_s, times.compute_s, software.ep_overlap, p)
    cp_s = exposed_s(times.cp_s, times.attention_s, 1.0, p)
    device_s = times.compute_s + tp_s + ep_s + cp_s
    host_s = times.kernels * software.host_seconds * p.host_scale
    return Parts(
        matmul_s=times.matmul_s,
        attention_s=times.attention_s,
        stream_s=times.stream_s,
        launch_s=_slower_s(host_s, device_s) - device_s,
        tp_s=tp_s,
        cp_s=cp_s,
        ep_s=ep_s,
    )


def _slower_s(host_s: Array, device_s: Array) -> Array:
    """What a pass takes that needs so long of each: the fourth root of the fourth powers' sum.

    The host runs ahead of the device, so the longer counts, but where kernels longer and shorter than their launch are
    mixed.
    """
    slower: Array = np.cbrt(host_s**3 + device_s**3)
    return slower


def _block(setting: Setting, layer: Layer) -> tuple[Parts, Parts]:
    """Both passes, and what is computed again of the forward one."""
    full = np.asarray(setting.split.recompute)
    selective = np.asarray(setting.split.selective) * (1.0 - full)
    zero = np.zeros_like(layer.forward.matmul_s)
    none = Times(**{field.name: zero for field in dataclasses.fields(Times)})
    again = none.plus(layer.forward, full).plus(layer.repeated, selective)
    return _pass(setting, layer.forward).plus(_pass(setting, layer.backward)), _pass(setting, again)
