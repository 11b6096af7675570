"""From the memory tier to disk: a folder that plain `torch.distributed.checkpoint.load` reads, without Myriarch.

A drain runs beside the training, in a process of its own at low priority. Jobs of kind `shards` write the files of
some slots and, beside each, a *results* file: what DCP's writer said about where everything lies. The job of kind
`finish` joins all results to `.metadata`, writes the manifest, syncs, and gives the folder its final name: until
then there is no checkpoint, and after it there is a whole one.
"""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo, _StoragePrefix
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorProperties
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import WriteResult

from myriarch.arena.manifest import FileRecord, Manifest, hash_file, record_of, verify, write_manifest
from myriarch.arena.slot import Slot
from myriarch.errors import IntegrityError, UsageError
from myriarch.event.base import Value
from myriarch.event.ids import Step
from myriarch.train.dcp import dtype_of, index_of, metadata_of, pickled
from myriarch.train.digest import combine, to_hex
from myriarch.train.index import Entry, decode_index, decode_value
from myriarch.wire.zygote import DrainJob

_RESULTS_SUFFIX: Final = ".results"


class _Result(Value, frozen=True, kw_only=True, array_like=True):
    """Where DCP's writer put one entry."""

    entry: Entry
    file: str
    offset_bytes: int
    length_bytes: int


class _ShardResults(Value, frozen=True, kw_only=True):
    """What a `shards` job leaves for the `finish` job."""

    rank: int
    world_size: int
    step: Step
    digest: str
    results: tuple[_Result, ...]
    files: tuple[FileRecord, ...]


class SlotPlanner(SavePlanner):
    """Serves DCP's writer from a slot. Only what DCP's writers call of a planner is there: nothing is planned here."""

    def __init__(self, slot: Slot, entries: Sequence[Entry]) -> None:
        self._slot: Final = slot
        self._entries: Final = {index_of(entry): entry for entry in entries}

    def set_up_planner(self, *args: object, **kwargs: object) -> None:
        """The plan is made of the index."""

    def create_local_plan(self) -> SavePlan:
        return SavePlan([write_item_of(entry) for entry in self._entries.values()])

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], object]:  # type: ignore[override]
        return all_plans, None

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        entry = self._entries[write_item.index]
        data = self._slot.read(entry.offset_bytes, entry.size_bytes)
        if entry.kind == "value":
            return pickled(decode_value(bytes(data), name=entry.name))
        return torch.frombuffer(data, dtype=dtype_of(entry)).view(entry.sizes)


def write_item_of(entry: Entry) -> WriteItem:
    """The entry as DCP plans it."""
    if entry.kind == "value":
        return WriteItem(index=index_of(entry), type=WriteItemType.BYTE_IO)
    return WriteItem(
        index=index_of(entry),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=torch.Size(entry.offsets), sizes=torch.Size(entry.sizes)),
            properties=TensorProperties(dtype=dtype_of(entry)),
            size=torch.Size(entry.shape),
        ),
    )


def run_job(job: DrainJob) -> int:
    """Do a job. Returns the bytes written. Raises a MyriarchError or OSError; part of a folder may stay then."""
    if job.kind == "finish":
        return finish(job)
    folder = Path(job.path)
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for path in job.slot_paths:
        with Slot.open(path) as slot:
            header = slot.header
            if header.step != job.step:
                raise IntegrityError(f"{path} holds step {header.step}, step {job.step} was to be drained")
            total += write_shard(slot, folder)
    sync_folder(folder)
    return total


def write_shard(slot: Slot, folder: Path) -> int:
    """Write the primary entries of a slot as one DCP file, and its results file. Returns the bytes written."""
    header = slot.header
    entries = [entry for entry in decode_index(slot.index, source=str(slot.path)) if entry.primary]
    planner = SlotPlanner(slot, entries)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        writer = FileSystemWriter(folder, single_file_per_rank=True, sync_files=True, thread_count=1)
        plan = dataclasses.replace(planner.create_local_plan(), storage_data=_StoragePrefix(f"__{header.rank}_"))
        written = writer.write_data(plan, planner).value() if entries else []
    by_index = {index_of(entry): entry for entry in entries}
    results = tuple(
        _Result(
            entry=by_index[result.index],
            file=result.storage_data.relative_path,
            offset_bytes=result.storage_data.offset,
            length_bytes=result.storage_data.length,
        )
        for result in written
    )
    files = tuple(record_of(folder / name) for name in sorted({result.file for result in results}))
    shard = _ShardResults(
        rank=header.rank,
        world_size=header.world_size,
        step=header.step,
        digest=header.digest,
        results=results,
        files=files,
    )
    _write_synced(folder / f"__{header.rank}{_RESULTS_SUFFIX}", msgspec.msgpack.encode(shard))
    return sum(record.size_bytes for record in files)


def finish(job: DrainJob) -> int:
    """Make a checkpoint of a folder whose shards are all written. Doing it twice is harmless."""
    folder, final = Path(job.path), Path(job.final_path)
    if folder.is_dir():
        shards = _read_results(folder, step=job.step)
        _write_metadata(folder, shards)
        files = [record for shard in shards for record in shard.files]
        for record in files:
            if hash_file(folder / record.name) != record.xxh3_128:
                raise IntegrityError(
                    f"{folder / record.name} changed after it was written; the disk or its host is damaged"
                )
        files.append(record_of(folder / ".metadata"))
        for path in folder.glob(f"*{_RESULTS_SUFFIX}"):
            path.unlink()
        digests = [int(shard.digest, 16) for shard in shards if shard.digest]
        manifest = Manifest(
            step=job.step,
            run_hash=job.run_hash,
            world_size=shards[0].world_size,
            digest=to_hex(combine(digests)) if len(digests) == len(shards) else "",
            files=tuple(sorted(files, key=lambda record: record.name)),
        )
        write_manifest(folder, manifest)
        sync_folder(folder)
        _publish(folder, final)
    manifest = verify(final) if not folder.is_dir() else manifest
    _delete(job.delete_paths, beside=final)
    return sum(record.size_bytes for record in manifest.files)


def _read_results(folder: Path, *, step: Step) -> list[_ShardResults]:
    decoder = msgspec.msgpack.Decoder(_ShardResults)
    shards = sorted(
        (decoder.decode(path.read_bytes()) for path in folder.glob(f"*{_RESULTS_SUFFIX}")), key=lambda shard: shard.rank
    )
    world_size = shards[0].world_size if shards else 0
    if not shards or [shard.rank for shard in shards] != list(range(world_size)):
        raise IntegrityError(
            f"{folder} has the shards of ranks {[shard.rank for shard in shards]}, not of all {world_size}"
        )
    if {shard.step for shard in shards} != {step}:
        raise IntegrityError(f"{folder} mixes shards of steps {sorted({shard.step for shard in shards})}")
    return shards


def _write_metadata(folder: Path, shards: Sequence[_ShardResults]) -> None:
    metadata = metadata_of([[result.entry for result in shard.results] for shard in shards])
    results = [list(_write_results(shard)) for shard in shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        FileSystemWriter(folder, sync_files=True).finish(metadata, results)


def _write_results(shard: _ShardResults) -> Iterator[WriteResult]:
    for result in shard.results:
        yield WriteResult(
            index=index_of(result.entry),
            size_in_bytes=result.length_bytes,
            storage_data=_StorageInfo(result.file, result.offset_bytes, result.length_bytes),
        )


def _publish(folder: Path, final: Path) -> None:
    """Give the complete folder its name. One that has it already is of the same step, before a rollback: it goes."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        old = final.with_name(f".{final.name}.replaced")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        folder.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(final)
    sync_folder(final.parent)


def _delete(paths: Sequence[str], *, beside: Path) -> None:
    for text in paths:
        path = Path(text)
        if path.parent.resolve() != beside.parent.resolve() or path.resolve() == beside.resolve():
            raise UsageError(f"{path} was to be deleted, which is no older checkpoint beside {beside}")
        shutil.rmtree(path, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
