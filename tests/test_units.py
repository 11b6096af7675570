"""Quantities as people write and read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.units import SUFFIXES, format_bytes, format_rate, format_s, parse_quantity, units_of

USE = "use a plain number in SI, or a number and one of"
BYTES = "`B`, `kB`, `MB`, `GB`, `TB`, `MiB`, `GiB`"
UNITS = [(units, name) for units in SUFFIXES.values() for name in units]


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("bandwidth_bytes_per_s", "25 GB/s", 25e9),
        ("bandwidth_bytes_per_s", "200 Gbit/s", 25e9),
        ("bandwidth_bytes_per_s", "1 GiB/s", 2.0**30),
        ("latency_s", "20 ms", 0.02),
        ("latency_s", "9ms", 0.009),
        ("latency_s", "50 us", 5e-5),
        ("latency_s", "50 µs", 5e-5),
        ("latency_s", "50 \N{GREEK SMALL LETTER MU}s", 5e-5),
        ("repair_s", "1.5h", 5400.0),
        ("power_w", "700 W", 700.0),
        ("power_w", "1.4 kW", 1400.0),
        ("memory_bytes", "80 GB", 80e9),
        ("memory_bytes", "1_000 B", 1000.0),
        ("rate_flops_per_s", "989 TFLOP/s", 989e12),
        ("matmul_measured_flops_per_s", "7.945e2 TFLOP/s", 794.5e12),
    ],
)
def test_reads_a_quantity_in_the_units_of_its_field(field: str, text: str, value: float) -> None:
    units = units_of(field)
    assert units is not None
    assert parse_quantity(text, units) == value


@pytest.mark.parametrize("field", ["steps", "name", "sources", "per_node_day", "cpu_fraction", "price_per_device_hour"])
def test_a_name_without_a_unit_takes_plain_numbers_only(field: str) -> None:
    assert units_of(field) is None


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        (
            "power_w",
            "700 Watt",
            f"`700 Watt` is not a number and a unit; {USE}: `W`, `kW`, `MW`, `GW`, `TW`",
        ),
        (
            "memory_bytes",
            "80 gb",
            f"`80 gb` is not a number and a unit; did you mean the unit `GB`? {USE}: {BYTES}",
        ),
        ("latency_s", "-1 ms", "`-1 ms` is not a number and a unit"),
        ("latency_s", "ms", "`ms` is not a number and a unit"),
        ("latency_s", "1e999 s", "`1e999 s` is too large for a number; use a smaller one"),
        # Eight times off if it were guessed wrongly, so bits stay bits.
        ("bandwidth_bytes_per_s", "25 Gbps", "did you mean the unit `Gbit/s`?"),
        ("bandwidth_bytes_per_s", "25 Gb/s", "did you mean the unit `GB/s` or `Gbit/s`?"),
        ("bandwidth_bytes_per_s", "25 GBps", "did you mean the unit `GB/s`?"),
        ("rate_flops_per_s", "989 TFLOPS", "did you mean the unit `TFLOP/s`?"),
    ],
)
def test_refuses_with_the_text_and_the_remedy(field: str, text: str, message: str) -> None:
    units = units_of(field)
    assert units is not None
    with pytest.raises(ValueError) as caught:
        parse_quantity(text, units)
    assert message in str(caught.value)


@given(st.integers(0, 10**9), st.sampled_from(UNITS))
def test_a_whole_number_of_a_unit_is_exact_to_the_last_bit(number: int, unit: tuple[dict[str, float], str]) -> None:
    units, name = unit
    exponent = round(math.log10(units[name])) if units[name] > 0 else 0
    value = parse_quantity(f"{number} {name}", units)
    if units[name] == float(f"1e{exponent}"):
        assert value == float(f"{number}e{exponent}")
    assert value == pytest.approx(number * units[name], rel=1e-15)


@given(st.floats(1e-9, 1e12), st.sampled_from(UNITS), st.sampled_from(UNITS))
def test_the_same_quantity_in_another_unit_is_the_same(
    value: float, one: tuple[dict[str, float], str], other: tuple[dict[str, float], str]
) -> None:
    units, first = one
    second = other[1] if other[0] is units else first
    in_first = parse_quantity(f"{value!r} {first}", units)
    in_second = parse_quantity(f"{value * units[first] / units[second]!r} {second}", units)
    assert in_first == pytest.approx(in_second, rel=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 µs"),
        (12e-6, "12 µs"),
        (0.00099949, "999 µs"),
        (0.00099951, "1 ms"),
        (0.012, "12 ms"),
        (0.9996, "1.00 s"),
        (3.42, "3.42 s"),
        (59.997, "1 min 00 s"),
        (245, "4 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7380, "2 h 03 min"),
        (48 * 3600 - 1, "2.0 d"),
        (3.1 * 86400, "3.1 d"),
        (-0.5, "-500 ms"),
        (math.inf, "∞"),
        (math.nan, "unknown"),
    ],
)
def test_prints_durations_for_people(seconds: float, text: str) -> None:
    assert format_s(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023.6, "1 KiB"),
        (6.29 * 2**20, "6.29 MiB"),
        (1020 * 1024, "1020 KiB"),
        (2**80, "1073741824 PiB"),
    ],
)
def test_prints_sizes_for_people(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text


@given(st.floats(1, 1e15))
def test_a_printed_rate_reads_back_within_its_three_digits(value: float) -> None:
    units = units_of("bandwidth_bytes_per_s")
    assert units is not None
    printed = format_rate(value, "B/s")
    assert parse_quantity(printed, units) == pytest.approx(value, rel=0.005, abs=0.5)
    assert len(printed.split()[0]) <= 4


@given(st.floats(1, 2.0**59))
def test_a_printed_size_reads_back_within_its_three_digits(value: float) -> None:
    units = units_of("size_bytes")
    assert units is not None
    printed = format_bytes(value)
    assert parse_quantity(printed, units) == pytest.approx(value, rel=0.005, abs=0.5)
    assert "e" not in printed.split()[0]
