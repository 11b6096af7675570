"""The tables of a profile for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from myriarch.spec.profile import Profile, Row, Transfer
from myriarch.units import format_bytes, format_rate, format_s

DOUBT: Final = "doubtful"


def table(profile: Profile) -> Iterator[str]:
    """Line by line: the device, the tables, what was left out."""
    device = profile.device
    known = f", `{device.chip}` of the catalogue" if device.chip else ""
    yield f"{device.count} x {device.name} ({device.kind}){known}"
    if device.power_w:
        drawn = f", {device.power_drawn_w:.0f} W drawn" if device.power_drawn_w else ""
        yield f"{device.power_w:.0f} W allowed{drawn}"
    yield from _products(profile)
    yield from _block("memory", [(f"{row.operation} {format_bytes(row.size_bytes)}", row) for row in profile.memory])
    if profile.launches is not None:
        kernel = profile.launches.kernel_s
        graph = f", {format_s(kernel)} in a graph" if kernel else ""
        yield from ("", f"launch  {format_s(profile.launches.host_s)} for each kernel{graph}{_doubt(profile.launches)}")
    yield from _block(
        "host links",
        [(f"{row.direction.replace('_', ' ')} {format_bytes(row.size_bytes)}", row) for row in profile.host_links],
    )
    yield from _block("device links", [(f"{row.source} to {row.target}", row) for row in profile.device_links])
    yield from _block(
        "all-reduce",
        [(f"{row.devices} x {format_bytes(row.size_bytes)} by {row.backend}", row) for row in profile.collectives],
    )
    if profile.left_out:
        yield from ("", "left out")
        yield from (f"  {reason}" for reason in profile.left_out)
    if _any_doubtful(profile):
        yield from ("", f"Rows marked {DOUBT} spread widely: measure again while the machine is idle.")


def _products(profile: Profile) -> Iterator[str]:
    if not profile.products:
        return
    yield from ("", f"{'products':<28}{'m x n x k':>22}{'median':>16}{'p10':>16}{'p90':>16}")
    for row in profile.products:
        name = f"{row.precision} {row.layout.replace('_', ' ')}"
        rates = (row.rate_flops_per_s, row.rate_p10_flops_per_s, row.rate_p90_flops_per_s)
        yield f"  {name:<26}{f'{row.m} x {row.n} x {row.k}':>22}{_cells(rates, 'FLOP/s')}{_doubt(row)}"


def _block(title: str, rows: Sequence[tuple[str, Transfer]]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"{title:<50}{'median':>16}{'p10':>16}{'p90':>16}")
    for name, row in rows:
        rates = (row.rate_bytes_per_s, row.rate_p10_bytes_per_s, row.rate_p90_bytes_per_s)
        yield f"  {name:<48}{_cells(rates, 'B/s')}{_doubt(row)}"


def _cells(rates: tuple[float | None, ...], unit: str) -> str:
    return "".join(f"{'-' if rate is None else format_rate(rate, unit):>16}" for rate in rates)


def _doubt(row: Row) -> str:
    return f"  {DOUBT}" if row.doubtful else ""


def _any_doubtful(profile: Profile) -> bool:
    tables = (profile.products, profile.memory, profile.host_links, profile.device_links, profile.collectives)
    return any(row.doubtful for rows in tables for row in rows)
