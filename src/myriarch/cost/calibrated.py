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
        matmul_sustained=0.972,
        throttling=0.2604,
        immaturity=0.4082,
        maturing_years=0.5,  # at its bound
        wave_share=0.5028,
        depth_half=159.8,
        memory_share=0.8009,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.7542,
        attention_aging_years=4.5,
        batched_share=0.4468,
        kernel_s=3.16e-06,
        host_scale=1.26,
        link_share=0.7532,
        network_share=0.7275,
        link_latency_s=1.728e-05,
        network_latency_s=1.512e-05,
        overlap_reach=0.8345,
        contention=0.2335,
        narrow_passes=1.156,
        scatter_passes=5.687,
        imbalance=1.125,
        jitter=0.003022,
        optimizer_passes=1.343,
        step_s=0.01393,
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
        matmul_sustained=0.9737,
        throttling=0.232,
        immaturity=0.4112,
        maturing_years=0.5,  # at its bound
        wave_share=0.4856,
        depth_half=146.8,
        memory_share=0.7986,
        eager_passes=1.738,
        eager_softmax_passes=4.71,
        attention_share=0.6838,
        attention_aging_years=4.754,
        batched_share=0.4283,
        kernel_s=3.113e-06,
        host_scale=1.286,
        link_share=0.7586,
        network_share=0.7681,
        link_latency_s=1.68e-05,
        network_latency_s=1.533e-05,
        overlap_reach=0.8399,
        contention=0.2325,
        narrow_passes=1.07,
        scatter_passes=5.719,
        imbalance=1.113,
        jitter=0.002939,
        optimizer_passes=1.337,
        step_s=0.0129,
    ),
}

INTERVALS: Final[dict[str, tuple[float, float]]] = {
    "first": (-0.1389, 0.1389),
    "second": (-0.1229, 0.1229),
    "all": (-0.1319, 0.1319),
}
