"""How a group splits the model: PyTorch's own `fully_shard` on a DeviceMesh, with sums instead of means.

FSDP2 divides reduced gradients by the world size by default, and a divide factor other than that needs a reduction
that gloo does not have (`ReduceOp.PREMUL_SUM`). So sums are forced and the factor is one: the gradients of a group
are the sum over its sequences, and the one division, by the valid tokens of all groups, comes after the bridge.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from myriarch.spec.model import Model
from myriarch.spec.run import Mesh
from myriarch.train.model import Decoder, fill_initial


def device_mesh_of(mesh: Mesh, *, device_type: str) -> DeviceMesh:
    """The group's mesh: one axis (`dp_shard`), or two with replicas (HSDP). Collective where it has two."""
    if mesh.dp_replicate == 1:
        return DeviceMesh(device_type, torch.arange(mesh.dp_shard), mesh_dim_names=("dp_shard",))
    ranks = torch.arange(mesh.devices).view(mesh.dp_replicate, mesh.dp_shard)
    return DeviceMesh(device_type, ranks, mesh_dim_names=("dp_replicate", "dp_shard"))


def build_decoder(model: Model, *, device_mesh: DeviceMesh, device: torch.device, seed: int | None) -> Decoder:
    """The reference model, sharded, with the initial weights of `seed`; None: any, as a restore comes next.

    It is laid out without memory first, so that no rank ever holds more than its shard and one layer.
    """
    with torch.device("meta"):
        decoder = Decoder(model)
    shard(decoder, device_mesh=device_mesh, dtype=torch.bfloat16 if model.dtype == "bf16" else None)
    decoder.to_empty(device=device)
    with torch.no_grad():
        decoder.fill_tables()
        if seed is not None:
            reset_parameters(decoder, seed=seed)
    return decoder


def shard(decoder: Decoder, *, device_mesh: DeviceMesh, dtype: torch.dtype | None) -> None:
    """Shard each layer and the rest. With `dtype`, compute in it; parameters, reductions and moments stay fp32."""
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32 if dtype is not None else None)
    for layer in decoder.layers.values():
        fully_shard(layer, mesh=device_mesh, mp_policy=policy)
    fully_shard(decoder, mesh=device_mesh, mp_policy=policy)
    for module in decoder.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)


def reset_parameters(decoder: Decoder, *, seed: int) -> None:
    """Set all weights to the initial ones of `seed`, in place."""
    for name, parameter in decoder.named_parameters():
        fill_initial(
            name,
            local_of(parameter),
            shape=parameter.shape,
            offsets=offsets_of(parameter),
            seed=seed,
            layers=decoder.spec.layers,
        )


def prepare_micro_batch(module: nn.Module, *, last: bool) -> None:
    """Reduce gradients with the last micro-batch of a step only, and keep the weights gathered until then.

    Between the first gather and the last reduction there is no collective, so the ranks of a group may run unlike
    numbers of micro-batches.
    """
    root = cast(FSDPModule, module)
    root.set_requires_gradient_sync(last)
    root.set_reshard_after_forward(False)
    root.set_reshard_after_backward(last)


def gather_no_more(module: nn.Module) -> None:
    """Let go of weights that a forward pass without a backward one left gathered."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def local_of(tensor: Tensor) -> Tensor:
    """The part of `tensor` that this rank holds: the same storage, no copy, no history.

    Without gradients `to_local` hands out what is there; with them it goes through autograd and DTensor's dispatch,
    which costs a quarter of a millisecond each time.
    """
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def zeros_beside(tensor: Tensor) -> Tensor:
    """Zeros that are split as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return torch.zeros_like(tensor, requires_grad=False)
    return DTensor.from_local(
        torch.zeros_like(local_of(tensor)),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def offsets_of(tensor: Tensor) -> tuple[int, ...]:
    """Where this rank's part begins in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim()
    return _box_of(tensor)[1]


def box_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Offsets and sizes of this rank's part in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.dim(), tuple(tensor.shape)
    sizes, offsets = _box_of(tensor)
    return offsets, sizes


def _box_of(tensor: DTensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(sizes), tuple(offsets)


def is_primary(tensor: Tensor, *, rank: int) -> bool:
    """Whether this rank is the first of those that hold the same part: what is counted or written once asks this."""
    if not isinstance(tensor, DTensor):
        return rank == 0
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    return all(
        position == 0
        for position, placement in zip(coordinate, tensor.placements, strict=True)
        if placement.is_replicate()
    )
