"""Constants of the performance model as calibrated: written by `benchmarks/calibrate.py`, never by hand.

    PYTHONPATH=src python benchmarks/calibrate.py tests/data/published_configs.yaml > src/myriarch/cost/calibrated.py

`first` and `second` were calibrated on a half of the sources each (every other one, in the order of the alphabet) and
predict the other half when the model is validated; `all` is what plans use. `WIDTHS` are those of the 80 % intervals,
from sources that are predicted by constants that have not seen them: of a half, over its own sources, so that an
interval is never measured on the runs that it is tested on; of `all`, over both halves.
"""

from __future__ import annotations

from typing import Final

from myriarch.cost.parameters import Parameters
from myriarch.cost.uncertainty import Widths

HALVES: Final[dict[str, tuple[str, ...]]] = {
    "first": ("dgxc_2502", "korthikanti_t5", "mbridge", "nemo_2407", "sc21_t1", "simumax_b200"),
    "second": ("fms_fsdp", "llmfoundry", "megatron_h100", "sailor", "sc21_t2", "vtrain_multi"),
}

CALIBRATED: Final[dict[str, Parameters]] = {
    "first": Parameters(
        matmul_sustained=0.9752,
        throttling=0.2486,
        immaturity=0.4283,
        maturing_years=0.513,
        wave_share=0.4977,
        depth_half=161.5,
        memory_share=0.7938,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.7658,
        attention_aging_years=4.5,
        batched_share=0.4485,
        kernel_s=3.151e-06,
        host_scale=1.553,
        link_share=0.7531,
        network_share=0.7213,
        link_latency_s=1.888e-05,
        network_latency_s=1.516e-05,
        overlap_reach=0.8302,
        contention=0.2284,
        narrow_passes=1.127,
        scatter_passes=5.35,
        imbalance=1.128,
        jitter=0.003272,
        optimizer_passes=1.335,
        step_s=0.01378,
    ),
    "second": Parameters(
        matmul_sustained=0.9772,
        throttling=0.1924,
        immaturity=0.3671,
        maturing_years=0.5,  # at its bound
        wave_share=0.4651,
        depth_half=127.7,
        memory_share=0.8031,
        eager_passes=1.706,
        eager_softmax_passes=4.999,
        attention_share=0.6341,
        attention_aging_years=4.958,
        batched_share=0.4072,
        kernel_s=3.037e-06,
        host_scale=1.423,
        link_share=0.7657,
        network_share=0.7888,
        link_latency_s=1.513e-05,
        network_latency_s=1.521e-05,
        overlap_reach=0.8473,
        contention=0.2563,
        narrow_passes=0.9863,
        scatter_passes=6.0,
        imbalance=1.1,
        jitter=0.003162,
        optimizer_passes=1.311,
        step_s=0.01064,
    ),
    "all": Parameters(
        matmul_sustained=0.9729,
        throttling=0.2329,
        immaturity=0.4103,
        maturing_years=0.5,  # at its bound
        wave_share=0.4832,
        depth_half=149.0,
        memory_share=0.79,
        eager_passes=1.699,
        eager_softmax_passes=4.764,
        attention_share=0.6826,
        attention_aging_years=4.772,
        batched_share=0.4326,
        kernel_s=3.113e-06,
        host_scale=1.469,
        link_share=0.7596,
        network_share=0.7713,
        link_latency_s=1.746e-05,
        network_latency_s=1.513e-05,
        overlap_reach=0.8373,
        contention=0.231,
        narrow_passes=1.091,
        scatter_passes=5.713,
        imbalance=1.12,
        jitter=0.003104,
        optimizer_passes=1.334,
        step_s=0.0127,
    ),
}

WIDTHS: Final[dict[str, Widths]] = {
    "first": Widths(base=0.096, other=0.17, mixture=0.13, narrow=0.05625, short=0.17, scale=0.09875),
    "second": Widths(base=0.1, other=0.17, mixture=0.12, narrow=0.0375, short=0.3, scale=0.09875),
    "all": Widths(base=0.1, other=0.17, mixture=0.13, narrow=0.04875, short=0.25, scale=0.09875),
}
