"""Energy against meters, and what must hold of any accounting of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.cost.calibrated import CALIBRATED
from myriarch.cost.decoder import Decoder
from myriarch.cost.energy import (
    AIR,
    IMMERSED,
    JOULES_PER_KWH,
    STATE_OF,
    State,
    carbon_kg,
    held_energy,
    run_energy,
    step_energy,
)
from myriarch.cost.silicon import machine
from myriarch.cost.software import level
from myriarch.cost.split import Split
from myriarch.cost.step import StepTime, step_time
from myriarch.errors import SpecError
from myriarch.spec.catalogue import catalogue

H100_W = 700.0


def gpt3_on_512_h100() -> StepTime:
    """MLPerf's GPT-3: 175B, FP8, tensor 4, pipeline 8 in 6 chunks each, batch 1,536 of 2,048 tokens."""
    decoder = Decoder(
        layers=96.0,
        width=12288.0,
        heads=96.0,
        kv_heads=96.0,
        head_width=128.0,
        feed_forward=49152.0,
        gated=0.0,
        vocabulary=51200.0,
        tied=1.0,
    )
    split = Split(
        tp=4.0,
        pp=8.0,
        dp=16.0,
        virtual=6.0,
        sequence_parallel=1.0,
        zero_stage=1.0,
        batch=1536.0,
        micro_batch=1.0,
        sequence=2048.0,
        narrow_share=1.0,
    )
    hardware = machine(catalogue()["h100-sxm"], precision="fp8", network_bandwidth_bytes_per_s=50e9)
    return step_time(
        decoder,
        machine=hardware,
        split=split,
        software=level("nemo", year=2024.3),
        parameters=CALIBRATED["all"],
    )


def step(**seconds: float) -> StepTime:
    """A step with these parts; the others are none."""
    return StepTime(**{field.name: np.asarray(seconds.get(field.name, 0.0)) for field in dataclasses.fields(StepTime)})


def test_mlperf_gpt3_on_512_h100_from_the_performance_model() -> None:
    """MLPerf Training v4.0, GPT-3 175B, 512 H100 (Sustainable Metal Cloud): 415.2 kWh AC in 3,412 s, 856 W a device.
    Only the meter was fitted, three shares of a board's power; the shares of time are the performance model's."""
    parts = gpt3_on_512_h100()
    used = run_energy(
        parts,
        steps=3412.0 / parts.total_s,
        run_s=3412.0,
        devices=512.0,
        board_w=H100_W,
        power=IMMERSED,
        pue=1.0,
    )
    assert float(used.total_kwh) == pytest.approx(415.2, rel=0.05)
    assert float(used.total_j) / 3412.0 / 512.0 == pytest.approx(856.0, rel=0.05)


@pytest.mark.parametrize(
    ("nodes", "minutes", "node_kw"), [(1, 29.10069, 6.741), (8, 5.40279, 5.847), (64, 2.10304, 4.745)]
)
def test_mlperf_lora_with_ever_more_devices(nodes: int, minutes: float, node_kw: float) -> None:
    """MLPerf Training v4.0, Llama 2 70B LoRA (Sustainable Metal Cloud): mean DC power of a node without the switches.
    What is not sped up by more nodes is waiting; on one node the time is spent as in GPT-3's run: 73 % computing, 14 %
    streaming."""
    efficiency = 29.10069 / nodes / minutes
    computing, streaming = 0.73 * efficiency, 0.14 * efficiency
    shares: tuple[tuple[State, float], ...] = (
        ("computing", computing),
        ("streaming", streaming),
        ("waiting", 1.0 - computing - streaming),
    )
    drawn_w = sum(float(IMMERSED.drawn_w(state, board_w=H100_W)) * share for state, share in shares)
    assert 8.0 * drawn_w * float(IMMERSED.supply) == pytest.approx(node_kw * 1e3, rel=0.05)


def test_an_air_cooled_node_reaches_what_was_seen() -> None:
    """8 H100 in one node: at most 8.4 kW in training, rated 10.2 (Latif et al., IEEE Access 2025)."""
    assert 8.0 * float(AIR.drawn_w("computing", board_w=H100_W)) == pytest.approx(8.4e3, rel=0.05)


def test_a_metered_pool_draws_what_was_metered() -> None:
    board_w = AIR.board_w(1050.0)
    assert float(AIR.drawn_w("computing", board_w=board_w)) == pytest.approx(1050.0)


def test_every_part_of_a_step_has_a_state() -> None:
    assert set(STATE_OF) == {field.name for field in dataclasses.fields(StepTime)}


def test_the_parts_sum_to_the_whole_by_hand() -> None:
    """2 devices of 100 W: 1 s computing, 2 s waiting. Computing 2 x 100 x 1, waiting 2 x 45 x 2, rest 2 x 31 x 3; of
    566 J at the parts 98.5 % came through, and the site adds a quarter."""
    used = step_energy(step(matmul_s=1.0, tp_s=2.0), devices=2.0, board_w=100.0, power=IMMERSED, pue=1.25)
    assert float(used.computing_j) == pytest.approx(200.0)
    assert float(used.waiting_j) == pytest.approx(180.0)
    assert float(used.rest_j) == pytest.approx(186.0)
    assert float(used.plugged_j) == pytest.approx(566.0 / 0.985)
    assert float(used.total_j) == pytest.approx(566.0 / 0.985 * 1.25)
    assert float(used.total_kwh) * JOULES_PER_KWH == pytest.approx(float(used.total_j))


def test_one_evaluation_serves_many_plans() -> None:
    many = StepTime(
        **{field.name: np.array([0.1, 0.2, 0.3]) for field in dataclasses.fields(StepTime)},
    )
    used = step_energy(many, devices=np.array([8.0, 16.0, 32.0]), board_w=H100_W)
    assert used.total_j.shape == (3,)
    for index, devices in enumerate((8.0, 16.0, 32.0)):
        alone = StepTime(
            **{field.name: np.asarray([0.1, 0.2, 0.3][index]) for field in dataclasses.fields(StepTime)},
        )
        assert float(used.total_j[index]) == pytest.approx(
            float(step_energy(alone, devices=devices, board_w=H100_W).total_j)
        )


@given(
    compute=st.floats(0.01, 10.0),
    wait=st.floats(0.0, 10.0),
    devices=st.integers(1, 100_000),
    pue=st.floats(1.0, 2.0),
)
def test_energy_scales_and_waiting_is_never_free(compute: float, wait: float, devices: int, pue: float) -> None:
    one = step_energy(step(matmul_s=compute, bubble_s=wait), devices=1.0, board_w=H100_W, pue=pue)
    all_of_them = step_energy(step(matmul_s=compute, bubble_s=wait), devices=float(devices), board_w=H100_W, pue=pue)
    assert float(all_of_them.total_j) == pytest.approx(devices * float(one.total_j))
    longer = step_energy(step(matmul_s=compute, bubble_s=wait + 1.0), devices=1.0, board_w=H100_W, pue=pue)
    assert float(longer.total_j) > float(one.total_j)
    parts = [float(getattr(one, field.name)) for field in dataclasses.fields(one)]
    assert min(parts) >= 0.0
    assert sum(parts) == pytest.approx(float(one.total_j))


def test_a_run_pays_for_its_faults_and_its_spares() -> None:
    quick = step(matmul_s=1.0)
    clean = run_energy(quick, steps=100.0, run_s=100.0, devices=8.0, board_w=H100_W)
    faulty = run_energy(quick, steps=100.0, run_s=150.0, devices=8.0, board_w=H100_W)
    spared = run_energy(quick, steps=100.0, run_s=100.0, devices=8.0, board_w=H100_W, spares=8.0)
    waiting = held_energy(50.0, state="waiting", devices=8.0, board_w=H100_W)
    assert float(faulty.total_j) == pytest.approx(float(clean.total_j) + float(waiting.total_j))
    assert float(clean.total_j) < float(spared.total_j) < 2.0 * float(clean.total_j)


def test_unknown_power_is_not_zero() -> None:
    with pytest.raises(SpecError, match="unknown"):
        step_energy(step(matmul_s=1.0), devices=8.0, board_w=None)


def test_carbon_by_hand() -> None:
    """26 MWh in Beijing at 0.5554 kg/kWh: 14.4 t."""
    assert float(carbon_kg(26e3 * JOULES_PER_KWH, kg_per_kwh=0.5554)) == pytest.approx(14_440.4)
