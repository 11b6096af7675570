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
        matmul_sustained=0.982,
        throttling=0.2589,
        immaturity=0.43,
        maturing_years=0.5,  # at its bound
        wave_share=0.4879,
        depth_half=149.8,
        memory_share=0.7966,
        eager_passes=1.8,
        eager_softmax_passes=4.0,
        attention_share=0.7553,
        attention_aging_years=4.5,
        batched_share=0.4498,
        kernel_s=3.131e-06,
        host_scale=1.544,
        link_share=0.7573,
        network_share=0.7285,
        link_latency_s=1.807e-05,
        network_latency_s=1.513e-05,
        overlap_reach=0.8339,
        contention=0.2171,
        narrow_passes=1.131,
        scatter_passes=5.585,
        imbalance=1.131,
        jitter=0.002783,
        optimizer_passes=1.341,
        step_s=0.01407,
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
        matmul_sustained=0.9764,
        throttling=0.2344,
        immaturity=0.4098,
        maturing_years=0.5,  # at its bound
        wave_share=0.4787,
        depth_half=142.9,
        memory_share=0.7914,
        eager_passes=1.709,
        eager_softmax_passes=4.78,
        attention_share=0.6764,
        attention_aging_years=4.782,
        batched_share=0.4333,
        kernel_s=3.099e-06,
        host_scale=1.466,
        link_share=0.7616,
        network_share=0.7697,
        link_latency_s=1.7e-05,
        network_latency_s=1.512e-05,
        overlap_reach=0.8389,
        contention=0.2298,
        narrow_passes=1.082,
        scatter_passes=5.82,
        imbalance=1.122,
        jitter=0.00288,
        optimizer_passes=1.335,
        step_s=0.01285,
    ),
}

WIDTHS: Final[dict[str, Widths]] = {
    "first": Widths(base=0.1, other=0.14, mixture=0.14, narrow=0.0525, short=0.17, scale=0.09875),
    "second": Widths(base=0.084, other=0.19, mixture=0.12, narrow=0.0375, short=0.28, scale=0.09875),
    "all": Widths(base=0.096, other=0.18, mixture=0.13, narrow=0.045, short=0.25, scale=0.09875),
}
