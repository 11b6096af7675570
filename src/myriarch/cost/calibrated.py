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
        matmul_sustained=0.9718,
        throttling=0.2603,
        immaturity=0.4084,
        maturing_years=0.5,  # at its bound
        wave_share=0.5031,
        depth_half=160.1,
        memory_share=0.8009,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.7546,
        attention_aging_years=4.5,
        batched_share=0.4466,
        kernel_s=3.16e-06,
        host_scale=1.261,
        link_share=0.7534,
        network_share=0.7274,
        link_latency_s=1.728e-05,
        network_latency_s=1.512e-05,
        overlap_reach=0.8344,
        contention=0.2337,
        narrow_passes=1.153,
        scatter_passes=5.68,
        imbalance=1.125,
        jitter=0.003018,
        optimizer_passes=1.343,
        step_s=0.01395,
    ),
    "second": Parameters(
        matmul_sustained=0.9758,
        throttling=0.1919,
        immaturity=0.3683,
        maturing_years=0.5,  # at its bound
        wave_share=0.4721,
        depth_half=131.6,
        memory_share=0.8044,
        eager_passes=1.713,
        eager_softmax_passes=4.879,
        attention_share=0.6359,
        attention_aging_years=4.961,
        batched_share=0.4031,
        kernel_s=3.053e-06,
        host_scale=1.272,
        link_share=0.7601,
        network_share=0.7866,
        link_latency_s=1.581e-05,
        network_latency_s=1.558e-05,
        overlap_reach=0.8473,
        contention=0.2553,
        narrow_passes=0.9915,
        scatter_passes=6.0,
        imbalance=1.1,
        jitter=0.003244,
        optimizer_passes=1.31,
        step_s=0.01049,
    ),
    "all": Parameters(
        matmul_sustained=0.9738,
        throttling=0.2316,
        immaturity=0.4113,
        maturing_years=0.5,  # at its bound
        wave_share=0.4857,
        depth_half=146.9,
        memory_share=0.7986,
        eager_passes=1.738,
        eager_softmax_passes=4.711,
        attention_share=0.6841,
        attention_aging_years=4.75,
        batched_share=0.4283,
        kernel_s=3.113e-06,
        host_scale=1.286,
        link_share=0.7587,
        network_share=0.7681,
        link_latency_s=1.68e-05,
        network_latency_s=1.533e-05,
        overlap_reach=0.8399,
        contention=0.2326,
        narrow_passes=1.068,
        scatter_passes=5.713,
        imbalance=1.113,
        jitter=0.002935,
        optimizer_passes=1.337,
        step_s=0.01292,
    ),
}

INTERVALS: Final[dict[str, tuple[float, float]]] = {
    "first": (-0.1378, 0.1378),
    "second": (-0.1229, 0.1229),
    "all": (-0.1322, 0.1322),
}
