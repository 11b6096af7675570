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
        matmul_sustained=0.9772,
        throttling=0.2598,
        immaturity=0.4282,
        maturing_years=0.5,  # at its bound
        wave_share=0.5017,
        depth_half=155.9,
        memory_share=0.8085,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.7698,
        attention_aging_years=4.5,
        batched_share=0.4458,
        kernel_s=3.145e-06,
        host_scale=1.417,
        link_share=0.7589,
        network_share=0.7272,
        link_latency_s=1.722e-05,
        network_latency_s=1.512e-05,
        overlap_reach=0.834,
        contention=0.2302,
        narrow_passes=1.118,
        scatter_passes=5.394,
        imbalance=1.121,
        jitter=0.00285,
        optimizer_passes=1.344,
        step_s=0.0142,
    ),
    "second": Parameters(
        matmul_sustained=0.9751,
        throttling=0.1923,
        immaturity=0.3689,
        maturing_years=0.5,  # at its bound
        wave_share=0.4728,
        depth_half=132.7,
        memory_share=0.8037,
        eager_passes=1.67,
        eager_softmax_passes=4.856,
        attention_share=0.6348,
        attention_aging_years=4.954,
        batched_share=0.404,
        kernel_s=3.037e-06,
        host_scale=1.327,
        link_share=0.7604,
        network_share=0.7868,
        link_latency_s=1.559e-05,
        network_latency_s=1.557e-05,
        overlap_reach=0.8472,
        contention=0.2548,
        narrow_passes=0.9923,
        scatter_passes=6.0,
        imbalance=1.1,
        jitter=0.003237,
        optimizer_passes=1.31,
        step_s=0.01047,
    ),
    "all": Parameters(
        matmul_sustained=0.9733,
        throttling=0.2308,
        immaturity=0.4113,
        maturing_years=0.5,  # at its bound
        wave_share=0.486,
        depth_half=147.0,
        memory_share=0.7994,
        eager_passes=1.705,
        eager_softmax_passes=4.685,
        attention_share=0.6843,
        attention_aging_years=4.731,
        batched_share=0.4285,
        kernel_s=3.098e-06,
        host_scale=1.352,
        link_share=0.7597,
        network_share=0.7685,
        link_latency_s=1.664e-05,
        network_latency_s=1.532e-05,
        overlap_reach=0.8399,
        contention=0.2334,
        narrow_passes=1.061,
        scatter_passes=5.633,
        imbalance=1.112,
        jitter=0.002933,
        optimizer_passes=1.336,
        step_s=0.01288,
    ),
}

INTERVALS: Final[dict[str, tuple[float, float]]] = {
    "first": (-0.1403, 0.1403),
    "second": (-0.1241, 0.1241),
    "all": (-0.1328, 0.1328),
}
