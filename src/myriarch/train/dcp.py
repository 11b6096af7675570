"""PyTorch Distributed Checkpoint on the memory tier: `dcp.save` and `dcp.load` work on slots as on folders.

    dcp.save(state, storage_writer=MemoryWriter(make_slot, step=..., incarnation=...))
    dcp.load(state, storage_reader=MemoryReader(paths))            paths: all shards of one group's copy

Resharding is DCP's: the reader rebuilds the metadata from the slots' indexes, and DCP works out which rank needs
what. Nothing is unpickled that came from a peer: values travel as MessagePack and are turned into what DCP's
planners expect in this process.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from myriarch.arena.copier import SpanCopier
from myriarch.arena.slot import Slot
from myriarch.errors import IntegrityError
from myriarch.event.ids import Incarnation, Step
from myriarch.train.index import (
    Entry,
    aligned,
    decode_index,
    decode_value,
    encode_index,
    encode_value,
    layout_hash,
)

SlotMaker = Callable[[str, int, int], Slot]
"""(layout hash, payload bytes, index bytes) to a slot that may be filled."""


class Stored(NamedTuple):
    """Where an entry lies: DCP carries it in its metadata as `storage_data`."""

    shard: int
    entry: Entry


def metadata_of(indexes: Sequence[Sequence[Entry]]) -> Metadata:
    """DCP's metadata of a snapshot from the indexes of all its shards. What several hold is taken from the first."""
    described: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {}
    stored: dict[MetadataIndex, Stored] = {}
    paths: dict[str, tuple[str, ...]] = {}
    for shard, entries in enumerate(indexes):
        for entry in entries:
            index = index_of(entry)
            paths[entry.name] = entry.path
            if index in stored:
                continue
            stored[index] = Stored(shard, entry)
            if entry.kind == "value":
                described[entry.name] = BytesStorageMetadata()
            else:
                _describe_chunk(described, entry)
    return Metadata(state_dict_metadata=described, planner_data=paths, storage_data=stored, storage_meta=StorageMeta())


def _describe_chunk(described: dict[str, TensorStorageMetadata | BytesStorageMetadata], entry: Entry) -> None:
    tensor = described.setdefault(
        entry.name,
        TensorStorageMetadata(
            properties=TensorProperties(dtype=dtype_of(entry)), size=torch.Size(entry.shape), chunks=[]
        ),
    )
    if not isinstance(tensor, TensorStorageMetadata) or tuple(tensor.size) != entry.shape:
        raise IntegrityError(f"shards of one snapshot disagree about `{entry.name}`; take it from another group")
    tensor.chunks.append(ChunkStorageMetadata(offsets=torch.Size(entry.offsets), sizes=torch.Size(entry.sizes)))


def index_of(entry: Entry) -> MetadataIndex:
    """DCP's key of an entry."""
    return MetadataIndex(entry.name) if entry.kind == "value" else MetadataIndex(entry.name, torch.Size(entry.offsets))


def dtype_of(entry: Entry) -> torch.dtype:
    """Raises IntegrityError for a type that this version of torch does not have."""
    dtype = getattr(torch, entry.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise IntegrityError(
            f"state entry `{entry.name}` has type `{entry.dtype}`, which this version of torch does not know"
        )
    return dtype


def pickled(value: Any) -> io.BytesIO:
    """A value as DCP's planners and files want it; made here, so it is safe to read here."""
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    return stream


class MemoryReader(StorageReader):
    """Reads a snapshot from slots of this node's memory; every block is verified before a byte of it counts."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths: Final = tuple(paths)
        self._slots: list[Slot] = []

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self.close()
        self._slots = [Slot.open(path) for path in self._paths]

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if not self._slots:
            self.reset()
        headers = [slot.header for slot in self._slots]
        if len({(header.group, header.step) for header in headers}) > 1:
            raise IntegrityError("the slots to restore from are not of one group and step")
        return metadata_of([decode_index(slot.index, source=str(slot.path)) for slot in self._slots])

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._stored: dict[MetadataIndex, Stored] = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            shard, entry = self._stored[item.storage_index]
            slot = self._slots[shard]
            if item.type == LoadItemType.BYTE_IO:
                data = slot.read(entry.offset_bytes, entry.size_bytes)
                planner.load_bytes(item, pickled(decode_value(bytes(data), name=entry.name)))
            else:
                target = planner.resolve_tensor(item).detach()
                target.copy_(_read_part(slot, entry, item))
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
        self._slots = []


def _read_part(slot: Slot, entry: Entry, item: ReadItem) -> Tensor:
    """The box that `item` asks for, from the rows of the chunk that contain it."""
    dtype = dtype_of(entry)
    if not entry.sizes:
        return torch.frombuffer(slot.read(entry.offset_bytes, entry.size_bytes), dtype=dtype).view(())
    row_bytes = entry.size_bytes // entry.sizes[0]
    first, rows = item.storage_offsets[0], item.lengths[0]
    data = slot.read(entry.offset_bytes + first * row_bytes, rows * row_bytes)
    part = torch.frombuffer(data, dtype=dtype).view(rows, *entry.sizes[1:])
    for axis in range(1, part.dim()):
        part = part.narrow(axis, item.storage_offsets[axis], item.lengths[axis])
    return part


class MemoryWriter(StorageWriter):
    """Writes a rank's part of a DCP plan into a slot and seals it."""

    def __init__(self, make_slot: SlotMaker, *, step: Step, incarnation: Incarnation) -> None:
        self._make_slot: Final = make_slot
        self._step: Final = step
        self._incarnation: Final = incarnation
        self.root = ""
        """Of the sealed slot, after `dcp.save`."""

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self.root = ""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        return None

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        parts = list(_parts_of(plan, planner))
        end = max((entry.offset_bytes + entry.size_bytes for entry, _ in parts), default=0)
        entries = [entry for entry, _ in parts]
        index = encode_index(entries)
        slot = self._make_slot(layout_hash(entries), aligned(end), len(index))
        slot.begin(step=self._step, incarnation=self._incarnation, index=index)
        spans = [(entry.offset_bytes, data.data_ptr(), entry.size_bytes) for entry, data in parts]
        self.root = slot.seal(SpanCopier(spans, slot.payload_bytes).copy_into(slot))
        results = [
            WriteResult(index=item.index, size_in_bytes=entry.size_bytes, storage_data=Stored(0, entry))
            for item, entry in zip(plan.items, entries, strict=True)
        ]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Nothing: the metadata is rebuilt from the slots' indexes."""

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return False


def _parts_of(plan: SavePlan, planner: SavePlanner) -> Iterator[tuple[Entry, Tensor]]:
    """Entries and host tensors of all items; the tensors must live until they are copied."""
    offset = 0
    for item in plan.items:
        data = planner.resolve_data(item)
        if isinstance(data, Tensor):
            host = data.detach().cpu().contiguous()
        else:
            data.seek(0)
            value = torch.load(data, weights_only=True)
            host = torch.frombuffer(bytearray(encode_value(value, name=item.index.fqn)), dtype=torch.uint8)
        yield _entry_of(item, host, offset, plan), host
        offset = aligned(offset + host.numel() * host.element_size())


def _entry_of(item: WriteItem, host: Tensor, offset: int, plan: SavePlan) -> Entry:
    name = item.index.fqn
    path = tuple(str(part) for part in (plan.planner_data or {}).get(name, (name,)))
    size_bytes = host.numel() * host.element_size()
    if item.tensor_data is None:
        return Entry(name=name, path=path, kind="value", offset_bytes=offset, size_bytes=size_bytes)
    return Entry(
        name=name,
        path=path,
        kind="tensor",
        dtype=str(host.dtype).removeprefix("torch."),
        shape=tuple(item.tensor_data.size),
        offsets=tuple(item.tensor_data.chunk.offsets),
        sizes=tuple(item.tensor_data.chunk.sizes),
        offset_bytes=offset,
        size_bytes=size_bytes,
    )
