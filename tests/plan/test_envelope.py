"""The arithmetic of 6 N D, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.plan.envelope import Claim, envelope, public_case, tokens_of, verdict_of


def claim(words: str, data: str, hardware: str) -> Claim:
    (found,) = (
        each
        for each in public_case()
        if each.words.startswith(words) and each.data == data and each.hardware.startswith(hardware)
    )
    return found


def test_half_a_trillion_parameters_on_fifteen_trillion_tokens() -> None:
    """6 x 5e11 x 1.5e13 = 4.5e25 FLOPs; at 1e18 FLOP/s used in full 4.5e7 s, that is 520.8 days, 1.43 years."""
    full = envelope(parameters=500e9, tokens=15e12, peak_flops_per_s=1e18, utilisation=1.0)
    assert full.model_flops == pytest.approx(4.5e25)
    assert full.run_s == pytest.approx(4.5e7)
    assert full.days == pytest.approx(520.83, abs=0.01)


def test_three_years_needs_the_use_of_a_good_cluster() -> None:
    """3 x 365.25 days are 94,672,800 s: 4.5e25 / (1e18 x 94,672,800) = 0.4753 of the peak. By 15T as tokens it holds
    for MFU 50 % and 95 % of the time kept; by 15 TB of English (3.66e12 tokens) it needs 0.116 only."""
    tokens = claim("three", "15T tokens", "1,000")
    assert tokens.envelope.utilisation == pytest.approx(0.4753, abs=1e-4)
    assert tokens.envelope.verdict == "best published"
    english = claim("three", "15 TB of English", "1,000")
    assert english.envelope.tokens == pytest.approx(15e12 / 4.1)
    assert english.envelope.utilisation == pytest.approx(0.4753 / 4.1, abs=1e-4)
    # At an ordinary 43 % it would be there in 0.81 years: 1.0976e25 / 4.3e17 = 2.55e7 s.
    assert english.run_s_if_ordinary == pytest.approx(2.5525e7, rel=1e-3)


def test_a_month_on_ten_thousand_devices() -> None:
    """4.5e25 / (30 x 86,400 s) = 1.736e19 FLOP/s: 1.736e15 from each of 10,000. An H100 has 0.989e15 in bf16, 1.979e15
    in fp8; a B200 2.25e15 and 4.5e15. So by tokens only the last can, and 15 TB of English is what an H100 does."""
    assert claim("a month", "15T tokens", "h100-sxm in bf16").per_device_flops_per_s == pytest.approx(
        1.736e15, rel=1e-3
    )
    found = {
        (data, hardware): claim("a month", data, hardware).envelope
        for data in ("15T tokens", "15 TB of English")
        for hardware in ("h100-sxm in bf16", "h100-sxm in fp8", "b200 in bf16", "b200 in fp8")
    }
    by_tokens = {hardware: each for (data, hardware), each in found.items() if data == "15T tokens"}
    assert by_tokens["h100-sxm in bf16"].utilisation == pytest.approx(1.755, abs=1e-3)
    assert by_tokens["h100-sxm in bf16"].verdict == "impossible"
    assert by_tokens["h100-sxm in fp8"].verdict == "beyond published"
    assert by_tokens["b200 in bf16"].verdict == "beyond published"
    assert by_tokens["b200 in fp8"].utilisation == pytest.approx(0.386, abs=1e-3)
    assert by_tokens["b200 in fp8"].verdict == "ordinary"
    assert found["15 TB of English", "h100-sxm in bf16"].utilisation == pytest.approx(1.755 / 4.1, abs=1e-3)
    assert found["15 TB of English", "h100-sxm in bf16"].verdict == "ordinary"


def test_both_claims_hold_alike_only_on_devices_of_3_65_pflops() -> None:
    """Three years over a month is 36.525; 1,000 PFLOP/s times that over 10,000 devices is 3.65 PFLOP/s each: between
    an H100's fp8 with sparsity (3.96) and a B200's without (4.5). The reading of the data does not change it."""
    for data in ("15T tokens", "15 TB of English", "15 TB of Chinese"):
        both = claim("a month", data, "a device")
        assert both.envelope.peak_flops_per_s / 10_000 == pytest.approx(3.6525e15, rel=1e-6)


@given(
    parameters=st.floats(1e6, 1e14),
    tokens=st.floats(1e6, 1e15),
    peak=st.floats(1e12, 1e22),
    utilisation=st.floats(0.01, 1.0),
)
def test_solving_for_any_of_the_five_gives_the_others_back(
    parameters: float, tokens: float, peak: float, utilisation: float
) -> None:
    run = envelope(parameters=parameters, tokens=tokens, peak_flops_per_s=peak, utilisation=utilisation)
    given_all = {
        "parameters": parameters,
        "tokens": tokens,
        "peak_flops_per_s": peak,
        "utilisation": utilisation,
        "run_s": run.run_s,
    }
    for unknown, value in given_all.items():
        again = envelope(**{name: each for name, each in given_all.items() if name != unknown})
        assert again.solved_for == unknown
        assert getattr(again, unknown) == pytest.approx(value)


def test_what_is_published() -> None:
    assert [verdict_of(share) for share in (0.3, 0.5, 0.7, 1.1)] == [
        "ordinary",
        "best published",
        "beyond published",
        "impossible",
    ]
    assert tokens_of(8.2e12) == pytest.approx(2e12)


def test_nonsense_is_refused() -> None:
    with pytest.raises(SpecError, match="leave out the one"):
        envelope(parameters=1e9, tokens=1e9)
    with pytest.raises(SpecError, match="not above zero"):
        envelope(parameters=-1e9, tokens=1e9, peak_flops_per_s=1e15, utilisation=0.4)
    with pytest.raises(SpecError, match="English has about 4"):
        tokens_of(1.0, bytes_per_token=0.0)
