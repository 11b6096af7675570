"""Which splits may be tried: the axes of a search, and the rules that forbid some of their products.

A *mesh* says how many devices each axis has. The rest of a split, its *choices*, is what one mesh can still do: how the
batch is cut, what is recomputed, which schedule, what is sharded. Rules and where they come from:

| rule | from |
| --- | --- |
| tp divides heads and the MLP's width | Megatron-LM: a head is not cut (arXiv:1909.08053, section 3) |
| tp at most the devices of one link domain | Narayanan et al. (SC'21), takeaway 1; give `tp` to try more |
| pp leaves a layer to every stage | the fullest stage has ceil(layers / pp) |
| 2 cp divides the sequence | causal load balance of ring attention gives a rank two chunks (arXiv:2406.08446) |
| dp times micro-batch divides the batch | every replica takes as many micro-batches |
| virtual divides the fullest stage's layers | chunks are alike (SC'21, section 2.2) |
| virtual > 1 needs m divisible by pp | interleaved 1F1B (SC'21, section 2.2) |
| zero-bubble is on plain 1F1B | ZB-H1 (arXiv:2401.10241, section 3) |
| sequence parallelism needs tp > 1 | it shards over tp (Korthikanti et al., MLSys 2023) |
| ep divides the experts; ep times expert_tp divides tp cp dp | folded expert axes (arXiv:2504.14960, section 3) |
| expert_tp divides tp and the experts' width | the same |
| groups smaller than all replicas only for ZeRO-3 | see `shardings` |
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Final

from myriarch.cost.decoder import Decoder
from myriarch.cost.split import Machine
from myriarch.errors import SpecError

Values = tuple[int, ...] | None
"""Values of an axis to try; None: all that the axis' own rule names."""
MICRO_BATCH_LIMIT: Final = 16
"""Sequences. Twice what any row of the published runs up to 8,192 tokens uses; give `micro_batch` to try more."""
BASEBOARD: Final = 8
"""Devices of the usual link domain; 12 or 18 of a wider one may be a group as well."""
CP_TOKENS: Final = 2048
"""Tokens of a sequence that a device keeps at least when `cp` is not given: below, a ring's pieces are too short to
hide behind their attention."""
COHERENT_BYTES_PER_S: Final = 100e9
"""A host link from this rate on is the processor's own (NVLink-C2C, Infinity Fabric). Over PCIe, copies to the host
share slots with network cards and storage, which the model does not see: there offload is tried only if asked for."""
SELECTIVE: Final = -1
"""A value of `Space.recomputed_layers`: no layer in full, all selectively."""
ALL_LAYERS: Final = -2
"""A value of `Space.recomputed_layers`: as many as the stage has."""


@dataclasses.dataclass(frozen=True, order=True)
class Mesh:
    """Devices along each axis."""

    tp: int
    cp: int
    pp: int
    dp: int
    ep: int = 1
    expert_tp: int = 1

    @property
    def devices(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def replicas(self) -> int:
        """Devices that hold the same weights when nothing is sharded."""
        return self.dp * self.cp

    @property
    def shares_experts(self) -> bool:
        """Whether several devices hold the same experts."""
        return self.replicas * self.tp > self.ep * self.expert_tp

    @property
    def layer_axes(self) -> tuple[int, int, int, int]:
        """What the time of a layer depends on."""
        return (self.tp, self.cp, self.ep, self.expert_tp)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """The values that a search may try. An axis that is None takes its own rule's values."""

    tp: Values = None
    """None: divisors and powers of two up to the link domain; of one wider than a baseboard also the heads'."""
    pp: Values = None
    """None: every number of stages that leaves a layer to each."""
    cp: Values = None
    """None: powers of two that leave a device `CP_TOKENS` tokens of a sequence."""
    dp: Values = None
    """None: what remains of the devices."""
    ep: Values = None
    """None: divisors of the experts."""
    expert_tp: Values = None
    """None: 1 and tp."""
    micro_batch: Values = None
    """None: divisors of a replica's batch up to `MICRO_BATCH_LIMIT`."""
    virtual: Values = None
    """None: divisors of the fullest stage's layers."""
    zero_bubble: tuple[bool, ...] = (False, True)
    sequence_parallel: tuple[bool, ...] = (False, True)
    zero_stage: tuple[int, ...] = (0, 1, 2, 3)
    shard: Values = None
    """Devices over which ZeRO-3 shards, fewer than all replicas (HSDP). None: every divisor of the replicas."""
    recomputed_layers: Values = None
    """Of the fullest stage: a number, `SELECTIVE` or `ALL_LAYERS`. None: every number, and selectively."""
    offload_optimizer: tuple[float, ...] | None = None
    """Shares of the optimizer's states in the host's memory. None: all or nothing if its link is coherent, or none."""
    offload_activations: tuple[float, ...] | None = None
    """Shares of the kept activations; with some of the layers recomputed in full, none: one or the other. None: as the
    optimizer's states."""
    devices_least: int = 1
    """Plans that leave more devices idle are not looked at."""
    narrow_share: float = 1.0
    """Share of the layers' products in the narrow precision, where the precision is one."""

    def beside(self, machine: Machine) -> Space:
        """With offload decided by the machine's host, where it is left to it."""
        coherent = float(machine.host_link_bandwidth_bytes_per_s) >= COHERENT_BYTES_PER_S
        usual = (0.0, 1.0) if coherent else (0.0,)
        return dataclasses.replace(
            self,
            offload_optimizer=usual if self.offload_optimizer is None else self.offload_optimizer,
            offload_activations=usual if self.offload_activations is None else self.offload_activations,
        )

    @property
    def offloaded(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shares of the optimizer's states, and of the activations."""
        return self.offload_optimizer or (0.0,), self.offload_activations or (0.0,)

    def meshes(
        self, decoder: Decoder, *, devices: int, whole: bool, domain: int, batch: int, sequence: int
    ) -> tuple[tuple[Mesh, ...], dict[str, int]]:
        """All meshes of exactly (`whole`) or at most so many devices, and how often which rule forbade one."""
        found: list[Mesh] = []
        rejected: Counter[str] = Counter()
        d = _Whole.of(decoder)
        for tp in self._tp(domain, devices, d.heads):
            if d.heads % tp or d.feed_forward % tp:
                rejected["tp does not divide heads or MLP"] += 1
                continue
            for cp in self._cp(sequence):
                if sequence % (2 * cp) and cp > 1:
                    rejected["2 cp does not divide the sequence"] += 1
                    continue
                for pp in self.pp or range(1, d.layers + 1):
                    if -(-d.layers // pp) * (pp - 1) >= d.layers:
                        rejected["pp leaves a stage without layers"] += 1
                        continue
                    for dp in self._dp(devices, tp * cp * pp, whole=whole, batch=batch):
                        if tp * cp * pp * dp > devices or (whole and tp * cp * pp * dp != devices):
                            rejected["axes do not multiply to the devices"] += 1
                        elif tp * cp * pp * dp < self.devices_least:
                            rejected["fewer devices than asked for"] += 1
                        elif batch % dp:
                            rejected["dp does not divide the batch"] += 1
                        elif not self.micro_batches(batch, dp):
                            rejected["no micro-batch divides a replica's batch"] += 1
                        else:
                            found += self._with_experts(d, tp, cp, pp, dp, rejected)
        return tuple(found), dict(rejected)

    def _tp(self, domain: int, devices: int, heads: int) -> tuple[int, ...]:
        if self.tp is not None:
            return self.tp
        powers = {1 << bit for bit in range(domain.bit_length())}
        if domain > BASEBOARD:
            powers |= set(divisors(heads))
        return tuple(sorted(size for size in powers | set(divisors(domain)) if size <= min(domain, devices)))

    def _cp(self, sequence: int) -> tuple[int, ...]:
        if self.cp is not None:
            return self.cp
        most = max(sequence // CP_TOKENS, 1)
        return tuple(1 << bit for bit in range(most.bit_length()))

    def _dp(self, devices: int, taken: int, *, whole: bool, batch: int) -> tuple[int, ...]:
        if self.dp is not None:
            return self.dp
        if whole:
            return (max(devices // taken, 1),)
        return tuple(size for size in divisors(batch) if size * taken <= devices)

    def _with_experts(self, d: _Whole, tp: int, cp: int, pp: int, dp: int, rejected: Counter[str]) -> Iterator[Mesh]:
        if not d.experts:
            yield Mesh(tp, cp, pp, dp)
            return
        for expert_tp in self.expert_tp or sorted({1, tp}):
            if tp % expert_tp or d.expert_feed_forward % expert_tp:
                rejected["expert_tp does not divide tp or the experts' width"] += 1
                continue
            for ep in self.ep or divisors(d.experts):
                if d.experts % ep or (tp * cp * dp) % (ep * expert_tp):
                    rejected["ep does not divide experts or devices of a stage"] += 1
                else:
                    yield Mesh(tp, cp, pp, dp, ep, expert_tp)

    def micro_batches(self, batch: int, dp: int) -> tuple[int, ...]:
        """Sequences of a micro-batch that a replica's batch can be cut into."""
        return _micro_batches(self.micro_batch, batch // dp)

    def schedules(self, layers: int, pp: int) -> tuple[tuple[int, bool], ...]:
        """(virtual, zero-bubble) for stages of so many layers."""
        return _schedules(self.virtual, self.zero_bubble, layers, pp)

    def kept(self, layers: int) -> tuple[tuple[float, float, float], ...]:
        """(share recomputed in full, selectively, share offloaded) for stages of so many layers: whole layers."""
        return _kept(self.recomputed_layers, self.offloaded[1], layers)

    def shardings(self, mesh: Mesh, *, experts: bool) -> tuple[tuple[int, int, float], ...]:
        """(ZeRO stage, devices of a shard group or 0 for all replicas, offloaded share of the optimizer's states) of a
        model with or without `experts`.

        Stages 1 and 2 shard over all replicas: what they exchange does not depend on the group, and the larger it is,
        the less each device holds and updates, so a smaller group is never faster, nor does it need less memory.
        """
        return _shardings(
            self.zero_stage, self.shard, mesh.replicas, experts and mesh.shares_experts, self.offloaded[0]
        )

    def parallel(self, tp: int) -> tuple[bool, ...]:
        """Values of sequence parallelism."""
        return self.sequence_parallel if tp > 1 else (False,)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """The numbers of a decoder that must divide."""

    layers: int
    heads: int
    feed_forward: int
    experts: int
    expert_feed_forward: int

    @classmethod
    def of(cls, decoder: Decoder) -> _Whole:
        names = [field.name for field in dataclasses.fields(cls)]
        values = {name: float(getattr(decoder, name)) for name in names}
        for name, value in values.items():
            if value != int(value) or value < 0:
                raise SpecError(f"`{name}: {value}` of the model is not a whole number", path=f"model.{name}")
        return cls(**{name: int(value) for name, value in values.items()})


@cache
def divisors(number: int) -> tuple[int, ...]:
    """In rising order."""
    low = [size for size in range(1, int(number**0.5) + 1) if number % size == 0]
    return tuple(sorted({*low, *(number // size for size in low)}))


@cache
def _micro_batches(given: Values, own: int) -> tuple[int, ...]:
    sizes = divisors(own) if given is None else given
    limit = MICRO_BATCH_LIMIT if given is None else own
    return tuple(size for size in sizes if own % size == 0 and size <= limit)


@cache
def _schedules(given: Values, zero_bubble: tuple[bool, ...], layers: int, pp: int) -> tuple[tuple[int, bool], ...]:
    if pp == 1:
        return ((1, False),)
    sizes = divisors(layers) if given is None else given
    plain = [(1, each) for each in sorted(zero_bubble)] if 1 in sizes else []
    return (*plain, *((size, False) for size in sizes if size > 1 and layers % size == 0))


@cache
def _kept(given: Values, offloaded: tuple[float, ...], layers: int) -> tuple[tuple[float, float, float], ...]:
    recomputed = _recomputed(given, layers)
    return tuple((full, some, share) for full, some in recomputed for share in offloaded if not share or full in (0, 1))


def _recomputed(given: Values, layers: int) -> tuple[tuple[float, float], ...]:
    numbers = (0, SELECTIVE, *range(1, layers), ALL_LAYERS) if given is None else given
    found: dict[tuple[float, float], None] = {}
    for number in numbers:
        if number == SELECTIVE:
            found[0.0, 1.0] = None
        elif number == ALL_LAYERS or 0 <= number <= layers:
            found[1.0 if number == ALL_LAYERS else number / layers, 0.0] = None
    return tuple(found)


@cache
def _shardings(
    stages: tuple[int, ...], given: Values, replicas: int, experts_replicated: bool, offloaded: tuple[float, ...]
) -> tuple[tuple[int, int, float], ...]:
    if replicas == 1 and not experts_replicated:
        return tuple((0, 0, share) for share in offloaded)  # nothing to shard over: all stages are the same
    sizes = divisors(replicas) if given is None else given
    found: list[tuple[int, int]] = [(stage, 0) for stage in stages]
    if 3 in stages:
        found += [(3, size) for size in sizes if 1 < size < replicas and replicas % size == 0]
    return tuple((stage, size, share) for stage, size in found for share in offloaded)
