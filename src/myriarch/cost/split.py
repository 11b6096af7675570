"""On what, how split and by which software: the other three parts of a configuration."""

from __future__ import annotations

import dataclasses

import numpy as np

from myriarch.cost.arrays import Array, Flag, Real, choose


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices of one kind and their links. Rates are of one device, one direction."""

    matmul_flops_per_s: Real
    """Best rate anybody measured for a matrix product in 16 bits: the ceiling, not the data sheet's peak."""
    narrow_flops_per_s: Real
    """The same in the precision that `Split.narrow_share` of the products use (8 or 4 bits)."""
    peak_flops_per_s: Real
    """Data sheet, 16 bits: what MFU is counted against."""
    memory_bytes: Real
    memory_bandwidth_bytes_per_s: Real
    processors: Real
    """Units that each compute one tile of a matrix product at a time (SM, CU, core)."""
    link_bandwidth_bytes_per_s: Real
    link_domain_devices: Real
    """Devices that reach each other over that link."""
    network_bandwidth_bytes_per_s: Real
    """Between such domains."""
    network_latency_s: Real = 0.0
    """Of a message between such domains, where it is more than the usual (`Parameters`)."""
    link_axes: Real = 1.0
    """Of a torus that the links form, each with an equal part of the bandwidth; 1: all devices on switches."""
    power_w: Real
    """Board power that the chip may draw."""
    launch_year: Real
    """When the chip could first be bought in numbers: its libraries have had time since."""
    host_link_bandwidth_bytes_per_s: Real = 32e9
    """To its host's memory. PCIe 4.0 x16, when nothing is known (PCI-SIG)."""
    host_memory_bandwidth_bytes_per_s: Real = 25.6e9
    """This device's share of the host's memory bandwidth: one of eight, of eight channels of DDR4-3200."""
    host_memory_bytes: Real = 64e9
    """This device's share of the host's memory: one of eight, of 512 GB."""
    ripe: Flag = 0.0
    """The matmul rates were measured on the very devices, by the libraries that they run: time will not raise them."""
    kernel_s: Real = 0.0
    """Ramp and tail of a kernel as measured; 0: the model's constant."""
    depth_half: Real = 0.0
    """`Parameters.depth_half` as measured; 0: the model's constant."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Software:
    """What a framework of some year does. A named level of `cost.software`, or one of your own."""

    year: Real
    flash_attention: Flag
    eager: Flag
    """Norms, activations and residuals as kernels of their own, in fp32; 0: fused or compiled."""
    host_seconds: Real
    """The host's time to launch one kernel. 0: captured graphs."""
    tp_overlap: Flag
    """Tensor-parallel collectives run in pieces beside the products that need them."""
    dp_overlap: Flag
    """Gradient and weight collectives of data parallelism run beside the backward and forward passes."""
    ep_overlap: Flag
    """All-to-all of experts runs beside the other half of the batch, or beside shared experts."""
    ep_once: Flag = 1.0
    """A token goes to a node once, whatever experts it has there (DeepEP); 0: once for each of its experts."""
    pp_overlap: Flag
    """Sends between pipeline stages run beside compute."""
    flat_collectives: Flag
    """Collectives over nodes use one network card per group instead of all the node's."""
    gradient_bytes: Real
    """Of one gradient when it is reduced."""
    held_gradient_bytes: Real = 4.0
    """Of one gradient while micro-batches add to it."""
    accumulation_bytes: Real = 0.0
    """Moved per weight to add a micro-batch's gradient to the held one."""
    logit_bytes: Real = 4.0
    """Of an entry of the logits at the peak of memory: two of the product, two of its gradient."""
    context_bytes: Real = 4.0e9
    """Driver, libraries and NCCL's buffers: outside the allocator, so not in what frameworks print as peak."""
    default_zero_stage: Real = 0.0
    """What its recipes shard if nothing else is said."""
    default_sequence_parallel: Flag = 0.0
    whole_in_pipelines: Flag = 0.0
    """A stage's sharded weights are gathered once a step, its gradients scattered once: both are whole in between."""
    whole_gradients: Flag = 0.0
    """Gradients are all-reduced whole where only a shard of the optimizer needs them."""
    dropout: Flag = 0.0
    """Trained with dropout: its masks are kept."""
    weight_casts: Flag = 0.0
    """Weights are cast to 8 bits anew in every pass, not once a step."""
    attention_year: Real = 2030.0
    """Chips that appeared later than this are run by attention kernels written for their forerunners."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How the step is divided. `tp * pp * cp * dp` is the number of devices; experts are sharded inside `dp * cp`."""

    tp: Real = 1.0
    pp: Real = 1.0
    dp: Real = 1.0
    cp: Real = 1.0
    ep: Real = 1.0
    expert_tp: Real = 1.0
    virtual: Real = 1.0
    """Model chunks of a pipeline rank (interleaved 1F1B, Narayanan et al. 2021)."""
    stage_layers: Real = 0.0
    """Layers of the fullest stage; 0: as even as they go."""
    first_layers: Real = 0.0
    """Layers of the first stage, where it holds fewer; 0: as many."""
    zero_bubble: Flag = 0.0
    """Weight gradients fill the bubble (Qi et al., arXiv:2401.10241)."""
    sequence_parallel: Flag = 0.0
    """Megatron's: norms and residuals sharded over tp (Korthikanti et al. 2022)."""
    zero_stage: Real = 0.0
    """Rajbhandari et al. 2020: 1 optimizer, 2 and gradients, 3 and weights (FSDP)."""
    shard: Real = 0.0
    """Devices over which ZeRO shards; 0: all of `dp * cp`."""
    batch: Real
    """Sequences of a step, all replicas together."""
    micro_batch: Real
    """Sequences."""
    sequence: Real
    """Tokens of one."""
    recompute: Flag = 0.0
    """Share of the layers that are computed anew in the backward pass. 1: full recomputation."""
    selective: Flag = 0.0
    """Attention (or, with flash attention, what is cheap) is computed anew in the other layers."""
    narrow_share: Flag = 0.0
    """Share of the layers' products that are computed in the narrow precision."""
    narrow_bytes: Real = 1.0
    """Of a value in that precision."""
    offload_optimizer: Flag = 0.0
    """Share of the optimizer's states that live in the host's memory and are stepped there (`cost.offload`)."""
    offload_activations: Flag = 0.0
    """Share of the kept activations that wait for the backward pass in the host's memory."""

    @property
    def devices(self) -> Real:
        return self.tp * self.pp * self.cp * self.dp

    @property
    def replicas(self) -> Real:
        """Devices that hold the same weights when nothing is sharded."""
        return self.dp * self.cp

    @property
    def sharded_over(self) -> Array:
        """Devices over which ZeRO shards."""
        return choose(np.greater(self.shard, 0), np.minimum(self.shard, self.replicas), self.replicas)

    @property
    def micro_batches(self) -> Array:
        """Per replica and step."""
        return np.maximum(np.divide(self.batch, np.multiply(self.dp, self.micro_batch)), 1.0)

    @property
    def tokens(self) -> Real:
        """Of one micro-batch on one device, before tensor parallelism."""
        return self.micro_batch * self.sequence / self.cp
