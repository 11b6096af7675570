"""A machine from what was measured on it: each number of a profile before the catalogue's, each with its origin.

The model's constants say what share of a data sheet's number a training reaches: `Parameters.memory_share` of the
memory's bandwidth, `link_share` of the link's. So a measured rate is turned into the data sheet's number that it stands
for, and the formulas stay as they are:

    memory      streaming rate / COPY_SHARE
    link        rate of an all-reduce / link_share, else of a copy between two devices / COPY_SHARE
    host link   rate of a pinned copy, as it is

Products: a profile has a table by shape, and the model has mechanisms for shape (`kernels.product_s`: tiles, waves, the
inner dimension's depth, a kernel's ramp, the operands' bytes). The mechanisms are kept, because they hold for shapes
that nobody timed, and their constants for this device are taken from the table (`cost.shapes`): the rate, `depth_half`
and, unless a captured graph showed it, `kernel_s`. What is left over is told: `Profiled.shape_error`.

The libraries that were measured are those that will run, so the rates do not ripen any more (`Machine.ripe`). Seconds
of measuring do not show how clocks fall over hours: `matmul_sustained` and throttling by power stay.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.kernels import UNTHROTTLED_W_PER_FLOPS
from myriarch.cost.parameters import Parameters
from myriarch.cost.shapes import Shapes
from myriarch.cost.silicon import machine
from myriarch.cost.split import Machine
from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.fleet import Chip, Fleet, Pool, Precision
from myriarch.spec.problems import listed
from myriarch.spec.profile import MemoryRate, ProductRate, Profile

COPY_SHARE: Final = 0.9
"""Of a data sheet's bandwidth, what a long copy is taken to reach: an assumption, usual of HBM and of NVLink."""
SMALLEST_BYTES: Final = 16 * 2**20
"""Arrays that are not in a cache, of those that a profile has."""
WIDE: Final[tuple[Precision, ...]] = ("bf16", "fp16", "tf32", "fp32")
"""What serves as the rate of wide products where the precision asked for was not measured, best first."""
NARROW: Final[dict[str, tuple[Precision, ...]]] = {"fp8": ("fp8",), "fp4": ("fp4", "fp8")}

Source = Literal["measured", "catalogue", "pool", "assumed"]


class Origin(Spec, frozen=True, kw_only=True):
    """Where a number of a machine came from."""

    field: str
    """Of `cost.split.Machine`."""
    value: float
    source: Source
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profiled:
    """A machine, and where its numbers came from."""

    machine: Machine
    origins: tuple[Origin, ...]
    shape_error: float | None
    """Mean of |log(measured / modelled)| over the profile's products of the wide precision."""

    def origin(self, field: str) -> Origin:
        """Of one field; KeyError if there is none such."""
        return {origin.field: origin for origin in self.origins}[field]


def machine_from(
    profile: Profile,
    *,
    chip: Chip | None = None,
    precision: str = "bf16",
    array_bytes: float | None = None,
    network_bandwidth_bytes_per_s: float | None = None,
    parameters: Parameters = CALIBRATED["all"],
) -> Profiled:
    """The machine that was measured; `chip`, of the catalogue, for what was not.

    `precision` of the products: `fp8` and `fp4` fill the narrow rate. `array_bytes`: of the arrays that streaming
    kernels work on; small ones live in caches. Left out: the largest measured. `network_bandwidth_bytes_per_s`: of the
    pool, one device's. Raises SpecError when neither profile nor chip has a number that no assumption can stand for.
    """
    numbers = _Numbers(profile, _catalogue_machine(chip, precision), parameters)
    numbers.memory(array_bytes)
    shapes = numbers.products(precision)
    numbers.links(network_bandwidth_bytes_per_s)
    numbers.rest()
    return Profiled(
        machine=Machine(**{field: origin.value for field, origin in numbers.found.items()}),
        origins=tuple(numbers.found.values()),
        shape_error=shapes.error if shapes else None,
    )


class _Numbers:
    """Collects the fields of a Machine, each from the best source that has it."""

    def __init__(self, profile: Profile, base: Machine | None, parameters: Parameters) -> None:
        self._profile: Final = profile
        self._parameters: Final = parameters
        self._base: Final = base
        self.found: Final[dict[str, Origin]] = {}

    def set(self, field: str, value: float, source: Source, reason: str) -> None:
        self.found[field] = Origin(field=field, value=float(value), source=source, reason=reason)

    def fall_back(self, field: str, value: float | None, reason: str) -> None:
        """What the catalogue says; else `value` for this reason; else a complaint."""
        if self._base is not None:
            self.set(field, float(getattr(self._base, field)), "catalogue", "")
        elif value is not None:
            self.set(field, value, "assumed", reason)
        else:
            raise SpecError(
                f"the profile of {self._profile.label} has no {reason}, and its chip is not in the catalogue; "
                "measure anew with more --seconds"
            )

    def products(self, precision: str) -> Shapes | None:
        """The rates of products, and the constants of their shapes."""
        device = self._profile.device
        if device.processors is not None:
            self.set("processors", device.processors, "measured", "as the driver says")
        else:
            self.fall_back("processors", 1.0, "unknown: one, which makes no waves")
        wide = self._rows((precision, *WIDE) if precision in WIDE else WIDE)
        shapes = self._shapes(wide)
        if shapes is None:
            self.fall_back("matmul_flops_per_s", None, "products")
        else:
            told = f"{len(wide)} products in {wide[0].precision}, {100 * shapes.error:.0f} % beside the model's shapes"
            # A fit, and not the best row: the best of many noisy rows is luck.
            self.set("matmul_flops_per_s", shapes.rate_flops_per_s, "measured", told)
            self.set("ripe", 1.0, "measured", "by the libraries that will run")
            self.set("kernel_s", shapes.kernel_s, "measured", "a launch" if self._kernel_s() else told)
            if shapes.depth_half is not None:
                self.set("depth_half", shapes.depth_half, "measured", told)
        self._narrow(precision, shapes)
        return shapes

    def _narrow(self, precision: str, wide_shapes: Shapes | None) -> None:
        """With the wide products' constants of shape: a machine has one set of them."""
        wide = self.found["matmul_flops_per_s"]
        rows = self._rows(NARROW.get(precision, ()))
        shapes = self._shapes(rows, like=wide_shapes)
        if shapes is not None:
            told = f"{len(rows)} products in {rows[0].precision}"
            self.set("narrow_flops_per_s", shapes.rate_flops_per_s, "measured", told)
        elif self._base is not None and precision in NARROW:
            # The catalogue's ratio of the two, on what was measured of the one.
            ratio = float(np.divide(self._base.narrow_flops_per_s, self._base.matmul_flops_per_s))
            self.set("narrow_flops_per_s", ratio * wide.value, "catalogue", "its ratio to the wide rate")
        else:
            self.set("narrow_flops_per_s", wide.value, wide.source, "as the wide products")

    def _rows(self, wanted: Sequence[Precision | str]) -> list[ProductRate]:
        """Of the first precision of these that was measured."""
        found = {row.precision for row in self._profile.products}
        best = next((precision for precision in wanted if precision in found), None)
        return [row for row in self._profile.products if row.precision == best]

    def _kernel_s(self) -> float | None:
        """A CPU launches by itself, so a launch is a kernel's ramp; an accelerator's ramp shows in a captured graph."""
        launches = self._profile.launches
        if launches is None:
            return None
        return launches.host_s if self._profile.device.kind == "cpu" else launches.kernel_s

    def _shapes(self, rows: Sequence[ProductRate], like: Shapes | None = None) -> Shapes | None:
        if not rows:
            return None
        launches = self._profile.launches
        return Shapes.of(
            rows,
            processors=self.found["processors"].value,
            memory_bytes_per_s=self._parameters.memory_share * self.found["memory_bandwidth_bytes_per_s"].value,
            kernel_s=like.kernel_s if like is not None else self._kernel_s(),
            depth_half=None if like is None else like.depth_half,
            host_s=launches.host_s if launches is not None and self._profile.device.kind != "cpu" else 0.0,
            parameters=self._parameters,
        )

    def memory(self, array_bytes: float | None) -> None:
        found = streaming(self._profile.memory, array_bytes=array_bytes)
        if found is None:
            self.fall_back("memory_bandwidth_bytes_per_s", None, "streaming rates")
        else:
            rate, how = found
            self.set("memory_bandwidth_bytes_per_s", rate / COPY_SHARE, "measured", how)
        size = self._profile.device.memory_bytes
        if size is not None:
            self.set("memory_bytes", size, "measured", "as the driver says")
        else:
            self.fall_back("memory_bytes", None, "memory size")

    def links(self, network_bandwidth_bytes_per_s: float | None) -> None:
        profile, p = self._profile, self._parameters
        reduced = [row for row in profile.collectives if row.devices == profile.device.count]
        if reduced:
            largest = max(reduced, key=lambda row: row.size_bytes)
            how = f"all-reduce of {largest.devices} devices by {largest.backend}"
            self.set("link_bandwidth_bytes_per_s", largest.rate_bytes_per_s / p.link_share, "measured", how)
        elif profile.device_links:
            # A ring is as fast as its slowest link.
            slowest = min(row.rate_bytes_per_s for row in profile.device_links)
            self.set("link_bandwidth_bytes_per_s", slowest / COPY_SHARE, "measured", "slowest copy between devices")
        else:
            self.fall_back("link_bandwidth_bytes_per_s", 1e9, "no link was measured")
        self.fall_back("link_domain_devices", float(profile.device.count), "the devices of the node")
        if network_bandwidth_bytes_per_s is not None:
            self.set("network_bandwidth_bytes_per_s", network_bandwidth_bytes_per_s, "pool", "`link` of the pool")
        else:
            self.fall_back("network_bandwidth_bytes_per_s", 1e9, "no network was measured")
        hosts = [row.rate_bytes_per_s for row in profile.host_links]
        if hosts:
            # Offload goes both ways, by the slower of them at the size where it is best.
            directions = ("to_device", "from_device")
            best = [[row.rate_bytes_per_s for row in profile.host_links if row.direction == way] for way in directions]
            rate = min(max(rates) for rates in best if rates)
            self.set("host_link_bandwidth_bytes_per_s", rate, "measured", "pinned copies, the slower way")

    def rest(self) -> None:
        """What no timing shows."""
        device = self._profile.device
        self.fall_back("peak_flops_per_s", self.found["matmul_flops_per_s"].value, "unknown: the measured rate")
        if device.power_w is not None:
            self.set("power_w", device.power_w, "measured", "limit of the board, as its tool says")
        else:
            ample = UNTHROTTLED_W_PER_FLOPS * self.found["peak_flops_per_s"].value
            self.fall_back("power_w", ample, "unknown: enough never to slow down")
        self.fall_back("launch_year", 2020.0, "unknown, and of no weight to measured rates")
        if self._base is not None:
            for field in dataclasses.fields(Machine):
                if field.name not in self.found:
                    self.fall_back(field.name, None, field.name)


def apply_profiles(
    fleet: Fleet,
    profiles: Sequence[Profile],
    *,
    chips: Mapping[str, Chip],
    precision: str = "bf16",
    parameters: Parameters = CALIBRATED["all"],
) -> dict[str, Profiled]:
    """The machines of the pools that a profile is of, by the pool's name; the other pools stay the catalogue's.

    A profile is of a pool whose chip's id is the profile's `device.chip`, or else its `device.name`. `chips`: the
    catalogue. Raises SpecError for a profile that fits no pool, and for two that fit the same.
    """
    found: dict[str, tuple[Profile, Profiled]] = {}
    for profile in profiles:
        pools = [pool for pool in fleet.pools if is_of(profile, _chip_id(pool))]
        if not pools:
            there = listed(dict.fromkeys(map(_chip_id, fleet.pools)))
            named = f"`{profile.device.chip}`" if profile.device.chip else f"named `{profile.device.name}`"
            remedy = "set `device.chip` in the profile to one of them, or leave the profile out"
            raise SpecError(f"profile of {profile.label}: no pool has its chip, {named}, but {there}; {remedy}")
        for pool in pools:
            if pool.name in found:
                other = found[pool.name][0].label
                raise SpecError(f"pool `{pool.name}`: both {other} and {profile.label} are profiles of it; give one")
            chip = pool.chip if isinstance(pool.chip, Chip) else chips.get(pool.chip)
            measured = machine_from(
                profile,
                chip=chip,
                precision=precision,
                network_bandwidth_bytes_per_s=pool.network_bandwidth_bytes_per_s,
                parameters=parameters,
            )
            found[pool.name] = (profile, measured)
    return {name: measured for name, (_, measured) in found.items()}


def is_of(profile: Profile, chip_id: str) -> bool:
    """Whether the profile was measured on chips of this id."""
    device = profile.device
    return chip_id == device.chip or (not device.chip and chip_id.casefold() == device.name.casefold())


def _chip_id(pool: Pool) -> str:
    return pool.chip.id if isinstance(pool.chip, Chip) else pool.chip


def streaming(
    rows: Sequence[MemoryRate], *, array_bytes: float | None, in_place: bool = False
) -> tuple[float, str] | None:
    """Bytes per second of streaming kernels on arrays of this size, and from which rows; None without rows.

    Frameworks write each result into memory asked for anew, so `new` counts where it was measured; where an allocator
    keeps memory, as on accelerators, it is as fast as the triad. Optimizers work `in_place`: there it does not count.
    """
    for operation in ("triad", "copy") if in_place else ("new", "triad", "copy"):
        chosen = sorted((row for row in rows if row.operation == operation), key=lambda row: row.size_bytes)
        if not chosen:
            continue
        if array_bytes is None:
            large = [row for row in chosen if row.size_bytes >= SMALLEST_BYTES] or chosen[-1:]
            return statistics.median(row.rate_bytes_per_s for row in large), f"`{operation}` of large arrays"
        sizes, rates = (np.log([getattr(row, field) for row in chosen]) for field in ("size_bytes", "rate_bytes_per_s"))
        rate = float(np.exp(np.interp(np.log(array_bytes), sizes, rates)))
        return rate, f"`{operation}` at {array_bytes:.3g} bytes, between the sizes measured"
    return None


def _catalogue_machine(chip: Chip | None, precision: str) -> Machine | None:
    """None also where the catalogue lacks a number: a profile exists to fill such gaps."""
    if chip is None:
        return None
    try:
        return machine(chip, precision=precision)
    except SpecError:
        return None
