"""The question of `myriarch plan` as it is asked, and with every default filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.parameters import Parameters
from myriarch.cost.pools import machine_of
from myriarch.cost.software import LEVELS
from myriarch.cost.split import Machine, Software
from myriarch.errors import SpecError
from myriarch.plan.answer import Question
from myriarch.plan.defaults import TOKENS_PER_PARAMETER, batch_for, tokens_for
from myriarch.plan.goal import Aim
from myriarch.plan.search import ANY
from myriarch.plan.sizing import steps_of
from myriarch.plan.space import Space
from myriarch.plan.valuing import Work
from myriarch.spec.catalogue import chip_of
from myriarch.spec.fleet import Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.problems import did_you_mean, listed

DEFAULT_SOFTWARE: Final = "megatron-core"
HEADROOM: Final = 0.04
"""Of a device's memory, kept free: twice the mean error of the memory model on measured runs. A plan that fills a
device to the last byte is as likely as not to run out."""
POOLS_MOST: Final = 12
NARROW: Final = ("fp8", "fp4")
"""Precisions that change what is learnt, however little: used when they are named."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
    """What somebody wants to know. None: a default, which the answer states."""

    model: Model
    fleet: Fleet
    label: str = ""
    """What the fleet is called in the answer; empty: its name."""
    aim: Aim = "time"
    tokens: float | None = None
    assumed: tuple[str, ...] = ()
    """What was assumed to ask it."""
    batch: int | None = None
    """Sequences."""
    sequence: int | None = None
    """Tokens; None: the model's context."""
    deadline_days: float | None = None
    budget: float | None = None
    currency: str = ""
    precisions: tuple[str, ...] = ("bf16",)
    software: str = DEFAULT_SOFTWARE
    top: int = 5
    space: Space = ANY
    measured: Mapping[str, Mapping[str, Machine]] = dataclasses.field(default_factory=dict)
    """Machines from profiles, by pool and precision: they go before the catalogue's."""

    @property
    def peak_flops_per_s(self) -> float:
        """Of the whole fleet, 16 bits. Raises SpecError when a chip's is unknown."""
        return sum(pool.devices * float(machine_of(pool).peak_flops_per_s) for pool in self.fleet.pools)


class Asked:
    """A question with everything that it leaves open decided, and what was decided said."""

    def __init__(self, ask: Ask) -> None:
        self.ask: Final = ask
        if len(ask.fleet.pools) > POOLS_MOST:
            raise SpecError(
                f"{len(ask.fleet.pools)} pools make too many sets to compare; plan for at most {POOLS_MOST}",
                path="pools",
                hint="join pools of one kind on one site",
            )
        self.decoder: Final = Decoder.of(ask.model)
        self.software: Final = _level(ask.software)
        self.parameters: Final[Parameters] = CALIBRATED["all"]
        self.notes: Final[list[str]] = []
        """What the user should know of how it was answered."""
        self._assumed: list[str] = list(ask.assumed)
        self.sequence: Final = ask.sequence or ask.model.context_tokens
        self.tokens: Final = ask.tokens or self._usual_tokens()
        self.batch: Final = ask.batch or self._usual_batch()
        steps = steps_of(self.tokens, batch_tokens=float(self.batch * self.sequence))
        self.work: Final = Work(
            decoder=self.decoder, fleet=ask.fleet, batch=self.batch, sequence=self.sequence, steps=steps
        )
        self.currency: Final = self._currency()

    def _usual_tokens(self) -> float:
        tokens = tokens_for(float(self.decoder.active_parameters))
        self._assumed.append(
            f"tokens: {tokens:.3g}, {TOKENS_PER_PARAMETER:g} for each active parameter (Chinchilla); say --tokens"
        )
        return tokens

    def _usual_batch(self) -> int:
        flops = float(self.decoder.flops_per_token(self.sequence)) * self.tokens
        batch = batch_for(flops, sequence_tokens=self.sequence)
        self._assumed.append(
            f"batch: {batch} sequences, {batch * self.sequence / 1e6:.3g} M tokens "
            "(DeepSeek LLM's law, at most 16 Mi); say --batch"
        )
        return batch

    def _currency(self) -> str:
        """That money is compared in. Raises SpecError when a comparison would need a rate of exchange."""
        known = self.ask.fleet.currencies
        wanted = self.ask.currency
        needed = self.ask.budget is not None or self.ask.aim == "cost"
        if needed and len(known) > 1:
            raise SpecError(
                f"the fleet's prices are in {listed(known)}, which have no sum",
                path="pools",
                hint="give all prices in one currency",
            )
        if wanted and known and wanted not in known:
            raise SpecError(f"the budget is in {wanted}, the fleet's prices in {listed(known)}", path="budget")
        unpriced = [pool.name for pool in self.ask.fleet.pools if not self._is_priced(pool)]
        # Where nothing has a price, the least money is the least device-hours; where some have, it is not known.
        if unpriced and (self.ask.budget is not None or (needed and len(unpriced) < len(self.ask.fleet.pools))):
            raise SpecError(
                f"money needs prices, and {listed(unpriced)} {'has' if len(unpriced) == 1 else 'have'} none",
                path="pools",
                hint="give `price_per_device_hour` of each pool, or the tariff of its site, in a fleet file",
            )
        return known[0] if known else ""

    def _is_priced(self, pool: Pool) -> bool:
        site = self.ask.fleet.site_of(pool)
        return pool.price_per_device_hour is not None or (site is not None and site.tariff is not None)

    def question(self) -> Question:
        """As the answer repeats it."""
        ask = self.ask
        return Question(
            model=ask.model.name,
            parameters=float(self.decoder.parameters),
            active_parameters=float(self.decoder.active_parameters),
            fleet=ask.label or ask.fleet.name,
            devices=sum(pool.devices for pool in ask.fleet.pools),
            tokens=self.tokens,
            batch_sequences=self.batch,
            sequence_tokens=self.sequence,
            software=ask.software,
            precisions=ask.precisions,
            objective=ask.aim,
            deadline_days=ask.deadline_days,
            budget=ask.budget,
            currency=self.currency,
            assumed=tuple(self._assumed),
        )

    def machines(self, pool: Pool) -> dict[str, Machine]:
        """By precision. Raises SpecError when the chip has none of those asked for, or lacks a number."""
        measured = self.ask.measured.get(pool.name, {})
        chip = chip_of(pool)
        found: dict[str, Machine] = {}
        for precision in self.ask.precisions:
            known = {*chip.rate_flops_per_s, *chip.matmul_measured_flops_per_s, *measured}
            if precision in NARROW and precision not in known:
                self.notes.append(f"pool `{pool.name}`: {chip.id} has no {precision} rate; left out")
                continue
            if precision == "bf16" and precision not in known and "fp16" in known:
                self.notes.append(f"pool `{pool.name}`: {chip.id} has no bf16; planned in fp16")
                precision = "fp16"
            found[precision] = self.machine(pool, precision)
        if not found:
            raise SpecError(
                f"chip `{chip.id}` of pool `{pool.name}` has no rate in {listed(self.ask.precisions)}",
                path="pools",
                hint=f"it has {listed(chip.rate_flops_per_s)}; say --precision",
            )
        return found

    def machine(self, pool: Pool, precision: str) -> Machine:
        """The pool's devices, measured or of the catalogue, with some of their memory left free."""
        whole = self.ask.measured.get(pool.name, {}).get(precision) or machine_of(pool, precision=precision)
        return dataclasses.replace(whole, memory_bytes=float(whole.memory_bytes) * (1.0 - HEADROOM))


def _level(name: str) -> Software:
    if name not in LEVELS:
        remedy = did_you_mean(name, LEVELS) or f" use one of {listed(LEVELS)}"
        raise SpecError(f"software level `{name}` is unknown;{remedy}", path="software")
    return LEVELS[name]
