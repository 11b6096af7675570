"""How long a training takes by arithmetic alone, and which assumption a claimed time stands on.

    run_s = 6 N D / (peak rate x MFU x kept share)

N are active parameters, D tokens; MFU is model FLOPs over the peak at the precision that is named; the kept share is
what of the time becomes steps that stay (scheduling and faults). Attention's square is left out: 1 to 15 % of the FLOPs
of today's models at 8 thousand tokens. Nothing here knows memory or networks: `plan.search` does.

The module also answers the case that is told in public: 500 billion dense parameters on "15T" of data, "three years" on
1,000 PFLOP/s, "a month" on 10,000 devices. Neither claim names its MFU, its precision, or whether "15T" are tokens or
bytes; `public_case` solves for what each would need.
"""

from __future__ import annotations

import math
from typing import Final, Literal

from myriarch.errors import SpecError
from myriarch.event.base import Value
from myriarch.plan.scaling_laws import FLOPS_PER_PARAMETER_TOKEN
from myriarch.spec.catalogue import catalogue
from myriarch.units import S_PER_DAY

ENGLISH_BYTES_PER_TOKEN: Final = 4.1
"""UTF-8 bytes of CC-100 English in one token of DeepSeek LLM's tokenizer (4.12; Baichuan 2 4.17, GPT-4's 4.40):
the table of Tokenizer Arena (Hugging Face space xu-song/tokenizer-arena)."""
CHINESE_BYTES_PER_TOKEN: Final = 3.5
"""The same of CC-100 simplified Chinese and Llama 3's tokenizer, 1.24 characters of some 2.8 bytes; LLaMA's older one
1.9, Baichuan's 4.2. The table counts TiB in 10^12 tokens: 3.2 there."""

PUBLISHED_MFU: Final = 0.43
"""Llama 3 405B on 16,384 H100 in bf16: 38 to 43 % (arXiv:2407.21783, table 4)."""
BEST_PUBLISHED_MFU: Final = 0.552
"""MegaScale, 175B on 12,288 GPUs in bf16 (arXiv:2402.15627, abstract). Of an 8-bit peak, less has been published."""

Verdict = Literal["ordinary", "best published", "beyond published", "impossible"]
Unknown = Literal["utilisation", "peak_flops_per_s", "tokens", "parameters", "run_s"]


class Envelope(Value, frozen=True, kw_only=True):
    """A training by arithmetic: every assumption, and the time that follows from them."""

    parameters: float
    tokens: float
    peak_flops_per_s: float
    """Of all devices together, dense, at the precision meant."""
    utilisation: float
    """MFU x kept share."""
    run_s: float
    model_flops: float
    solved_for: Unknown
    verdict: Verdict
    """Whether runs are known that use their peak as well."""

    @property
    def days(self) -> float:
        return self.run_s / S_PER_DAY


class Claim(Value, frozen=True, kw_only=True):
    """A public claim under one reading of what it leaves open, with what had to be solved for."""

    words: str
    data: str
    """How "15T" is read."""
    hardware: str
    """How the compute is read."""
    envelope: Envelope
    per_device_flops_per_s: float | None
    """Sustained model FLOPs that each device has to give; None: no devices named."""
    run_s_if_ordinary: float
    """What it would take at `PUBLISHED_MFU`."""
    bytes_per_token: float | None = None


def verdict_of(utilisation: float) -> Verdict:
    """How a share of the peak compares with what has been published."""
    if utilisation > 1.0:
        return "impossible"
    if utilisation > BEST_PUBLISHED_MFU:
        return "beyond published"
    return "best published" if utilisation > PUBLISHED_MFU else "ordinary"


def envelope(
    *,
    parameters: float | None = None,
    tokens: float | None = None,
    peak_flops_per_s: float | None = None,
    utilisation: float | None = None,
    run_s: float | None = None,
) -> Envelope:
    """Four of the five in, the fifth out: run_s x peak x utilisation = 6 x parameters x tokens.

    Raises SpecError when not exactly one is left out, or one is not above zero. A utilisation above 1 is an answer: the
    claim that led to it is impossible.
    """
    given: dict[Unknown, float | None] = {
        "parameters": parameters,
        "tokens": tokens,
        "peak_flops_per_s": peak_flops_per_s,
        "utilisation": utilisation,
        "run_s": run_s,
    }
    missing: list[Unknown] = [name for name, value in given.items() if value is None]
    if len(missing) != 1:
        raise SpecError(f"{len(missing)} of {', '.join(given)} are left out; leave out the one to solve for")
    for name, value in given.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SpecError(f"{value} is not above zero and finite", path=name)
    work = FLOPS_PER_PARAMETER_TOKEN * math.prod(given[name] or 1.0 for name in ("parameters", "tokens"))
    power = math.prod(given[name] or 1.0 for name in ("peak_flops_per_s", "utilisation", "run_s"))
    unknown = missing[0]
    solved = power / work if unknown in ("parameters", "tokens") else work / power
    values = {name: solved if value is None else value for name, value in given.items()}
    return Envelope(
        parameters=values["parameters"],
        tokens=values["tokens"],
        peak_flops_per_s=values["peak_flops_per_s"],
        utilisation=values["utilisation"],
        run_s=values["run_s"],
        model_flops=FLOPS_PER_PARAMETER_TOKEN * values["parameters"] * values["tokens"],
        solved_for=unknown,
        verdict=verdict_of(values["utilisation"]),
    )


def tokens_of(size_bytes: float, *, bytes_per_token: float = ENGLISH_BYTES_PER_TOKEN) -> float:
    """Tokens of so many bytes of UTF-8 text."""
    if not bytes_per_token > 0:
        raise SpecError(f"{bytes_per_token} is not above zero; English has about 4", path="bytes_per_token")
    return size_bytes / bytes_per_token


PUBLIC_PARAMETERS: Final = 500e9
PUBLIC_DATA: Final = 15e12
"""Tokens, or bytes."""
PUBLIC_RATE_FLOPS_PER_S: Final = 1e18
PUBLIC_DEVICES: Final = 10_000
YEAR_S: Final = 365.25 * S_PER_DAY
THREE_YEARS_S: Final = 3.0 * YEAR_S
MONTH_S: Final = 30.0 * S_PER_DAY
PUBLIC_CHIPS: Final[tuple[tuple[str, Literal["bf16", "fp16", "fp8"]], ...]] = (
    ("h100-sxm", "bf16"),
    ("h100-sxm", "fp8"),
    ("b200", "bf16"),
    ("b200", "fp8"),
)
DATA_READINGS: Final = (
    ("15T tokens", None),
    ("15 TB of English", ENGLISH_BYTES_PER_TOKEN),
    ("15 TB of Chinese", CHINESE_BYTES_PER_TOKEN),
)


def public_case() -> tuple[Claim, ...]:
    """Both claims under every reading of data and hardware, each with the utilisation that it would need; and for each
    reading of the data the rate of a device with which both claims have the same utilisation."""
    claims: list[Claim] = []
    known = catalogue()
    for data, bytes_per_token in DATA_READINGS:
        tokens = PUBLIC_DATA if bytes_per_token is None else tokens_of(PUBLIC_DATA, bytes_per_token=bytes_per_token)
        three_years = envelope(
            parameters=PUBLIC_PARAMETERS,
            tokens=tokens,
            peak_flops_per_s=PUBLIC_RATE_FLOPS_PER_S,
            run_s=THREE_YEARS_S,
        )
        claims.append(
            Claim(
                words="three years on 1,000 PFLOP/s",
                data=data,
                hardware="1,000 PFLOP/s at the precision of training",
                envelope=three_years,
                per_device_flops_per_s=None,
                run_s_if_ordinary=three_years.run_s * three_years.utilisation / PUBLISHED_MFU,
                bytes_per_token=bytes_per_token,
            )
        )
        for chip, precision in PUBLIC_CHIPS:
            peak = known[chip].rate_flops_per_s[precision] * PUBLIC_DEVICES
            month = envelope(parameters=PUBLIC_PARAMETERS, tokens=tokens, peak_flops_per_s=peak, run_s=MONTH_S)
            claims.append(_month(f"{chip} in {precision}, dense peak", data, bytes_per_token, month))
        both = envelope(
            parameters=PUBLIC_PARAMETERS, tokens=tokens, utilisation=min(three_years.utilisation, 1.0), run_s=MONTH_S
        )
        claims.append(_month("a device with which both claims hold alike", data, bytes_per_token, both))
    return tuple(claims)


def _month(hardware: str, data: str, bytes_per_token: float | None, found: Envelope) -> Claim:
    return Claim(
        words="a month on 10,000 devices",
        data=data,
        hardware=hardware,
        envelope=found,
        per_device_flops_per_s=found.model_flops / found.run_s / PUBLIC_DEVICES,
        run_s_if_ordinary=found.run_s * found.utilisation / PUBLISHED_MFU,
        bytes_per_token=bytes_per_token,
    )
