"""Constants of the performance model as calibrated: written by `benchmarks/calibrate.py`, never by hand.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

`first` and `second` were calibrated on a half of the sources each (every other one, in the order of the alphabet) and
predict the other half when the model is validated; `all` is what plans use. `INTERVALS` holds how far 80 % of
log(measured / predicted) reach when sources are predicted by constants that have not seen them: of a half, over its own
sources, so that an interval is never measured on the runs that it is tested on; of `all`, over both halves.
"""

from __future__ import annotations

from typing import Final

from myriarch.cost.parameters import Parameters

HALVES: Final[dict[str, tuple[str, ...]]] = {
    "first": ("dgxc_2502", "korthikanti_t5", "mbridge", "nemo_2407", "sc21_t1", "simumax_b200"),
    "second": ("fms_fsdp", "llmfoundry", "megatron_h100", "sailor", "sc21_t2", "vtrain_multi"),
}

CALIBRATED: Final[dict[str, Parameters]] = {
    "first": Parameters(
        matmul_sustained=0.9303,
        immaturity=0.4976,
        maturing_years=0.6014,
        wave_share=0.4768,
        depth_half=155.2,
        memory_share=0.8034,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.6864,
        attention_aging_years=4.5,
        batched_share=0.482,
        kernel_s=3.246e-06,
        host_scale=1.338,
        link_share=0.7642,
        network_share=0.726,
        link_latency_s=1.755e-05,
        network_latency_s=1.512e-05,
        overlap_reach=0.824,
        contention=0.2827,
        narrow_passes=1.308,
        scatter_passes=5.774,
        imbalance=1.127,
        jitter=0.002609,
        optimizer_passes=1.345,
        step_s=0.01577,
    ),
    "second": Parameters(
        matmul_sustained=0.9524,
        immaturity=0.3905,
        maturing_years=0.5,  # at its bound
        wave_share=0.4659,
        depth_half=124.2,
        memory_share=0.8089,
        eager_passes=1.732,
        eager_softmax_passes=4.963,
        attention_share=0.6643,
        attention_aging_years=4.395,
        batched_share=0.4215,
        kernel_s=3.078e-06,
        host_scale=1.268,
        link_share=0.7606,
        network_share=0.7911,
        link_latency_s=1.579e-05,
        network_latency_s=1.558e-05,
        overlap_reach=0.8418,
        contention=0.2956,
        narrow_passes=0.9994,
        scatter_passes=6.0,
        imbalance=1.1,
        jitter=0.003262,
        optimizer_passes=1.309,
        step_s=0.01124,
    ),
    "all": Parameters(
        matmul_sustained=0.9395,
        immaturity=0.4783,
        maturing_years=0.5758,
        wave_share=0.4672,
        depth_half=142.2,
        memory_share=0.7958,
        eager_passes=1.667,
        eager_softmax_passes=4.761,
        attention_share=0.6593,
        attention_aging_years=4.909,
        batched_share=0.4618,
        kernel_s=3.205e-06,
        host_scale=1.326,
        link_share=0.7625,
        network_share=0.7784,
        link_latency_s=1.716e-05,
        network_latency_s=1.532e-05,
        overlap_reach=0.833,
        contention=0.2749,
        narrow_passes=1.255,
        scatter_passes=6.112,
        imbalance=1.122,
        jitter=0.00278,
        optimizer_passes=1.346,
        step_s=0.01427,
    ),
}

INTERVALS: Final[dict[str, tuple[float, float]]] = {
    "first": (-0.1854, 0.1854),
    "second": (-0.1202, 0.1202),
    "all": (-0.1525, 0.1525),
}
