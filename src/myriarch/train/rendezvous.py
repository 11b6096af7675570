"""How the workers of a group find each other: over a store in an agent, which outlives any of them.

The store's keys begin with `<group>/<incarnation>/`: a fenced worker meets nobody. A worker sees what torchrun
would have set, so that scripts that read the environment work unchanged.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store

from myriarch.event.actions import WorkerPlan
from myriarch.wire.store import StoreClient

DEFAULT_TIMEOUT_S: Final = 120.0
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFNETMASK: Final = 0x891B


class AgentStore(Store):
    """PyTorch's store interface over the agent's. gloo and NCCL call it from C++ threads; the client takes turns."""

    def __init__(self, client: StoreClient, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        super().__init__()
        self._client = client
        self._timeout_s = timeout_s

    def set(self, key: str, value: str | bytes) -> None:
        self._client.set(key, _as_bytes(value))

    def get(self, key: str) -> bytes:
        return self._client.get(key, timeout_s=self._timeout_s)

    def add(self, key: str, value: int) -> int:
        return self._client.add(key, value)

    def check(self, keys: Sequence[str]) -> bool:
        return self._client.check(list(keys))

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        limit_s = self._timeout_s if timeout is None else timeout.total_seconds()
        self._client.wait(list(keys), timeout_s=limit_s)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        return self._client.compare_set(key, _as_bytes(expected), _as_bytes(desired))

    def delete_key(self, key: str) -> bool:
        return self._client.delete(key)

    def num_keys(self) -> int:
        return self._client.num_keys()

    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout_s = timeout.total_seconds()

    @property
    def timeout(self) -> timedelta:
        return timedelta(seconds=self._timeout_s)

    def clone(self) -> AgentStore:
        return AgentStore(self._client.clone(), timeout_s=self._timeout_s)


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def device_of(index: int) -> torch.device:
    """The worker's device: the accelerator's, where there is one, else the CPU."""
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            device = torch.device(kind.type, index)
            torch.accelerator.set_device_index(index)
            return device
    return torch.device("cpu")


def join_group(plan: WorkerPlan, *, token: str, address: str, device: torch.device, timeout_s: float) -> Store:
    """Make the default process group of this worker's replica group: all its ranks meet here, within `timeout_s`.

    A group of one has one too, as DeviceMesh wants it; a process that runs alone needs no store for it. Returns the
    store, which the caller must keep: torch holds its C++ half only, and subgroups made later would miss the rest.
    """
    set_environment(plan)
    interface = interface_of(address)
    if interface:
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    store: Store = HashStore()
    if plan.store_port:
        prefix = f"{plan.group}/{plan.incarnation}/"
        client = StoreClient(plan.store_address, plan.store_port, token, prefix, timeout_s=timeout_s)
        store = AgentStore(client, timeout_s=timeout_s)
    dist.init_process_group(
        backend="gloo" if device.type == "cpu" else None,
        store=store,
        rank=plan.rank,
        world_size=plan.world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=None if device.type == "cpu" else device,
    )
    return store


def set_environment(plan: WorkerPlan) -> None:
    """What torchrun sets (torch.distributed.run, "Environment Variables")."""
    os.environ.update(
        RANK=str(plan.rank),
        WORLD_SIZE=str(plan.world_size),
        LOCAL_RANK=str(plan.device_index),
        GROUP_RANK="0",
        ROLE_RANK=str(plan.rank),
        ROLE_WORLD_SIZE=str(plan.world_size),
        ROLE_NAME=plan.group,
        MASTER_ADDR=plan.store_address,
        MASTER_PORT=str(plan.store_port),
        TORCHELASTIC_RESTART_COUNT=str(plan.incarnation - 1),
        TORCHELASTIC_RUN_ID=plan.group,
    )


def interface_of(address: str) -> str:
    """The network interface whose network `address` is in; empty if none is.

    gloo binds to what the host's name resolves to unless it is told an interface: on a node with several addresses, or
    with a name that nobody knows, that is the wrong one.
    """
    try:
        wanted = struct.unpack("!I", socket.inet_aton(address))[0]
    except OSError:
        return ""
    for _, name in socket.if_nameindex():
        own, mask = (_interface_word(name, request) for request in (_SIOCGIFADDR, _SIOCGIFNETMASK))
        if own is not None and mask is not None and own & mask == wanted & mask:
            return name
    return ""


def _interface_word(name: str, request: int) -> int | None:
    buffer = array.array("B", name.encode()[:15].ljust(40, b"\0"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, request, buffer, True)
        except OSError:
            return None
    return int(struct.unpack("!I", buffer[20:24].tobytes())[0])
