"""`myriarch plan --fleet 1000PFLOP/s`: days by arithmetic alone, where nothing is known of devices but their rate.

What is assumed is what the answer consists of: the same training at the utilisations that have been published, and,
with a deadline, the utilisation that it would need.
"""

from __future__ import annotations

from typing import Final

import msgspec
from rich.table import Table

from myriarch.cli.console import Output
from myriarch.errors import EXIT_DEGRADED, EXIT_OK, UsageError
from myriarch.event.base import Value
from myriarch.plan.envelope import BEST_PUBLISHED_MFU, PUBLISHED_MFU, Envelope, envelope
from myriarch.spec.model import Model
from myriarch.units import S_PER_DAY, SUFFIXES, format_rate, parse_quantity

KEPT: Final = 0.95
"""Share of time in steps that stay: Llama 3 reports more than 0.9 (arXiv:2407.21783, section 3.3.4)."""
RATES: Final = SUFFIXES["_flops_per_s"]


class Arithmetic(Value, frozen=True, kw_only=True):
    """What `myriarch plan --fleet RATE --json` prints."""

    schema: str = "myriarch.arithmetic/1"
    model: str
    parameters: float
    """Multiplied with each token."""
    tokens: float
    peak_flops_per_s: float
    """At the precision of training, dense."""
    assumed: tuple[str, ...]
    envelopes: tuple[Envelope, ...]
    """At utilisations that were published, ordinary first."""
    needed: Envelope | None = None
    """What the deadline would need."""


def is_rate(text: str) -> bool:
    """Whether somebody meant a rate and no fleet."""
    return text.strip().endswith("FLOP/s") or text.strip().upper().endswith(("FLOPS", "FLOP/S"))


def arithmetic(
    model: Model,
    rate: str,
    *,
    tokens: float | None,
    assumed: tuple[str, ...],
    deadline_days: float | None,
    json_output: bool,
) -> int:
    """Compute and print. Exits with 3 when the deadline would need more than anybody has published."""
    try:
        peak = parse_quantity(rate, RATES)
    except ValueError as error:
        raise UsageError(f"--fleet: {error}", hint="write 1000PFLOP/s, chip:devices, or a file") from None
    if peak <= 0:
        raise UsageError(f"--fleet: `{rate}` is no rate", hint="write 1000PFLOP/s")
    if tokens is None:
        raise UsageError("--tokens is missing", hint="say how many are trained on: 15T, or 15TB of text")
    parameters = float(model.active_parameters)
    known = {"parameters": parameters, "tokens": tokens, "peak_flops_per_s": peak}
    made = Arithmetic(
        model=model.name,
        parameters=parameters,
        tokens=tokens,
        peak_flops_per_s=peak,
        assumed=(
            "6 x parameters x tokens; memory, network and batch are not looked at",
            f"{KEPT:.0%} of time is kept; MFU {PUBLISHED_MFU:.0%} as Llama 3, {BEST_PUBLISHED_MFU:.0%} as MegaScale",
            "the rate is dense, at the precision of training: 8 bits have twice that of 16, sparsity doubles it again",
            *assumed,
        ),
        envelopes=tuple(envelope(**known, utilisation=KEPT * mfu) for mfu in (PUBLISHED_MFU, BEST_PUBLISHED_MFU)),
        needed=None if deadline_days is None else envelope(**known, run_s=deadline_days * S_PER_DAY),
    )
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        _show(made)
    fails = made.needed is not None and made.needed.verdict in ("beyond published", "impossible")
    return EXIT_DEGRADED if fails else EXIT_OK


def _show(made: Arithmetic) -> None:
    console = Output()
    console.print(
        f"{made.model}: {made.parameters / 1e9:,.4g} B parameters, {made.tokens:.4g} tokens on "
        f"{format_rate(made.peak_flops_per_s, 'FLOP/s')}",
        style="bold",
    )
    table = Table(box=None, padding=(0, 1))
    table.add_column("utilisation = MFU x kept share", justify="right")
    table.add_column("days", justify="right")
    table.add_column("")
    for each in (*made.envelopes, *((made.needed,) if made.needed else ())):
        what = "needed by the deadline: " if each is made.needed else ""
        table.add_row(f"{each.utilisation:.1%}", f"{each.days:,.4g}", what + each.verdict)
    console.print(table)
    for line in made.assumed:
        console.print(f"  assumed: {line}", style="dim", soft_wrap=True)
