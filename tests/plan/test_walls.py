"""The three walls: what binds where, what measures are worth, and the picture."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import msgspec
import pytest

from myriarch.cost.decoder import Decoder
from myriarch.errors import SpecError
from myriarch.plan.countermeasures import ALL, PLAIN, Outcome, Variant
from myriarch.plan.walls import Site, Walls, device_counts, walls
from myriarch.plan.walls_search import batch_sequences, searched
from myriarch.plan.walls_svg import WORDS, walls_svg
from myriarch.spec.catalogue import lookup
from myriarch.spec.models import lookup_model

COUNTS = (1024, 8192, 16_384, 98_304)
BATCH_TOKENS = 16e6


def best(devices: int, variant: Variant) -> Outcome | None:
    """A model whose MFU falls as a fixed batch is cut finer; every measure is worth something."""
    gain = 1 + 0.1 * variant.schedules + 0.5 * variant.narrow + 0.1 * variant.overlap + 0.05 * (variant.network - 1)
    mfu = 0.45 * gain / (1 + devices / (50_000 * variant.batch))
    flops = 6 * 405e9 * BATCH_TOKENS * variant.batch
    return Outcome(
        step_s=flops / (devices * 989e12 * mfu),
        mfu=mfu,
        split="tp 8",
        state_bytes=405e9 * 14 / devices,
        exposed_share=0.1,
        bubble_share=0.1,
    )


def made(site: Site | None = None, **changes: object) -> Walls:
    arguments = {"model": "m", "chip": "c", "devices": COUNTS, "best": best, "batch_tokens": BATCH_TOKENS}
    return walls(**{**arguments, **changes}, board_w=700.0, site=site)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def answer() -> Walls:
    return made(Site(limit_w=60e6, price_per_kwh=0.06))


def test_each_share_is_one_and_their_product_is_effective_compute(answer: Walls) -> None:
    for row in answer.rows:
        assert row.parallelism.best is not None
        product = row.energy.powered * row.reliability.kept * row.parallelism.best.mfu
        assert row.effective == pytest.approx(product)
        for share in (row.energy.powered, row.reliability.kept, row.reliability.kept_plain, row.parallelism.efficiency):
            assert 0.0 <= share <= 1.0


def test_what_binds_is_what_leaves_least(answer: Walls) -> None:
    for row in answer.rows:
        shares = {
            "energy": row.energy.powered,
            "reliability": row.reliability.kept,
            "parallelism": row.parallelism.efficiency,
        }
        assert shares[row.binds] == min(shares.values())
    last = answer.rows[-1]
    assert last.binds_plain == "reliability"  # a failure every 18 minutes, recovered in 25
    assert last.reliability.kept_plain < 0.2
    assert last.binds == "parallelism"


def test_a_small_site_is_the_wall_that_binds() -> None:
    small = made(Site(limit_w=20e6), devices=COUNTS[3:]).rows[-1]
    assert small.binds == "energy"
    # 98,304 boards of 700 W, 1.22 times that at the wall, PUE 1.25.
    assert small.energy.power_w == pytest.approx(98_304 * 700 * 1.22 * 1.25)
    assert small.energy.powered == pytest.approx(20e6 / small.energy.power_w)
    assert small.effective < 0.2 * small.parallelism.efficiency


def test_no_measure_alone_is_worse_than_none_nor_all_worse_than_all_but_one(answer: Walls) -> None:
    for row in answer.rows:
        assert row.effective >= row.effective_plain
        for measure in row.measures:
            assert measure.alone >= row.effective_plain - 1e-6, measure
            assert measure.without <= row.effective + 1e-6, measure


def test_what_holds_at_98304_devices_is_recovery(answer: Walls) -> None:
    """A time-out of ten minutes, once in 18, is worth more than everything else."""
    worth = {measure.name: measure for measure in answer.rows[-1].measures}
    row = answer.rows[-1]
    assert row.reliability.mtbf_s / 60 == pytest.approx(18.0, rel=0.01)
    assert row.reliability.kept > 0.95
    assert worth["detection by facts"].without < 0.6 * row.effective
    assert worth["spares"].without < row.effective
    assert worth["peers' memory"].alone > row.effective_plain


def test_energy_and_its_price_per_token(answer: Walls) -> None:
    row = answer.rows[0]
    assert row.parallelism.best is not None
    assert row.energy.j_per_token is not None
    assert row.energy.j_per_token_plain is not None
    expected = row.energy.power_w * row.parallelism.best.step_s / BATCH_TOKENS / row.reliability.kept
    assert row.energy.j_per_token == pytest.approx(expected)
    assert row.energy.j_per_token_plain > row.energy.j_per_token
    assert row.energy.price_per_million_tokens == pytest.approx(row.energy.j_per_token * 1e6 / 3.6e6 * 0.06)


def test_a_larger_batch_is_charged_for_the_tokens_that_it_wastes(answer: Walls) -> None:
    """McCandlish et al.: at four times the critical batch 2.5 times as many tokens as at it."""
    worth = {measure.name: measure for measure in answer.rows[-1].measures}["four times the batch"]
    row = answer.rows[-1]
    outcome = best(98_304, dataclasses.replace(PLAIN, batch=4.0))
    assert outcome is not None
    charged = outcome.mfu * row.reliability.kept_plain * row.energy.powered * 2 / 5
    assert worth.alone == pytest.approx(max(charged, row.effective_plain))


def test_fewer_failures_never_lower_effective_compute() -> None:
    low, high = (made(node_failures_per_day=rate, devices=COUNTS[3:]) for rate in (2.34e-3, 6.5e-3))
    for better, worse in zip(low.rows, high.rows, strict=True):
        assert better.effective >= worse.effective
        assert better.effective_plain >= worse.effective_plain


def test_counts_lie_evenly_between_the_ends_and_can_be_split() -> None:
    counts = device_counts(1000, 100_000, points=7)
    assert counts == (1024, 2048, 4096, 8192, 24_576, 49_152, 98_304)
    assert device_counts(8, 8) == (8,)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(SpecError, match="more than the 8 of --to"):
        device_counts(16, 8)
    with pytest.raises(SpecError, match="`m` fits on none of 8, 16 devices"):
        made(best=lambda devices, variant: None, devices=(8, 16))


def test_where_nothing_fits_is_said_and_left_out() -> None:
    found = made(best=lambda devices, variant: None if devices < 8192 else best(devices, variant), devices=COUNTS[:2])
    assert [row.devices for row in found.rows] == [8192]
    assert found.rows[0].energy.limit_w is None
    assert found.rows[0].energy.powered == 1.0
    assert any("no split fits on 1024" in line for line in found.assumptions)


def test_it_goes_to_json_and_back(answer: Walls) -> None:
    assert msgspec.json.decode(msgspec.json.encode(answer), type=Walls) == answer


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_picture_is_well_formed_and_has_a_point_for_every_number(answer: Walls, language: str) -> None:
    text = walls_svg(answer, language=language)  # type: ignore[arg-type]
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f"{space}circle")
    # Two lines of effective compute with a name each, and one of power.
    assert len(circles) == 3 * len(answer.rows) + 2
    words = {element.text for element in root.findall(f"{space}text")}
    assert {"energy", "reliability", "parallelism"} <= words or {"能耗", "可靠性", "并行"} <= words
    assert "98k" in words
    for element in root.iter():
        for name in ("x", "y", "cx", "cy"):
            value = element.get(name)
            assert value is None or -1.0 <= float(value) <= 900.0


def test_both_languages_have_the_same_words() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()


def test_batches_are_powers_of_two_within_the_limit() -> None:
    assert batch_sequences(16e6, sequence=8192) == 1024
    assert batch_sequences(16.8e6, sequence=8192) == 2048
    assert batch_sequences(1.0, sequence=8192) == 1


def test_the_search_s_splits_lose_mfu_as_devices_grow() -> None:
    chip = lookup("h100-sxm")
    find = searched(Decoder.of(lookup_model("llama-3-1-8b")), chip=chip, batch_tokens=4.2e6, sequence=8192)
    few, many = find(64, PLAIN), find(2048, PLAIN)
    everything = find(2048, ALL)
    assert few is not None
    assert many is not None
    assert everything is not None
    assert 0.3 < few.mfu < 0.6
    assert many.mfu < few.mfu
    assert everything.mfu > many.mfu
    assert "fp8" in everything.split
