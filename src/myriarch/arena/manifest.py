"""The manifest of a durable checkpoint: what must lie in its folder, byte for byte, before anybody resumes from it.

A checkpoint's folder holds PyTorch Distributed Checkpoint's files and `myriarch.json`, which is written last before the
folder gets its final name. A folder without it, or with another content than it says, is not a checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import xxhash

from myriarch.errors import IntegrityError
from myriarch.event.base import Value
from myriarch.event.ids import Step

MANIFEST_NAME: Final = "myriarch.json"
SCHEMA: Final = "myriarch.checkpoint/1"
_READ_BYTES: Final = 1 << 20


class FileRecord(Value, frozen=True, kw_only=True):
    """One file of the checkpoint."""

    name: str
    size_bytes: int
    xxh3_128: str


class Manifest(Value, frozen=True, kw_only=True):
    """What a complete checkpoint holds."""

    schema: str = SCHEMA
    step: Step
    run_hash: str
    """Of the run that wrote it: a resume compares it before it trusts the checkpoint."""
    world_size: int
    """Of the group that wrote it; any other may load it."""
    digest: str
    """Of the whole state, independent of layout; empty if unknown."""
    files: tuple[FileRecord, ...]


class DurableCheckpoint(NamedTuple):
    """A folder with a manifest that fits its files' names and sizes."""

    path: Path
    manifest: Manifest


def hash_file(path: Path) -> str:
    """Hex xxh3-128 of a file's content."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            state.update(block)
    return state.hexdigest()


def record_of(path: Path) -> FileRecord:
    """A file as it is now."""
    return FileRecord(name=path.name, size_bytes=path.stat().st_size, xxh3_128=hash_file(path))


_decoder: Final = msgspec.json.Decoder(Manifest)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write and sync it. The folder's own entry is the caller's to sync."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    with (folder / MANIFEST_NAME).open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Read it and compare names and sizes, not contents. Raises IntegrityError."""
    path = folder / MANIFEST_NAME
    try:
        manifest = _decoder.decode(path.read_bytes())
    except OSError as error:
        raise IntegrityError(
            f"{folder} is no complete checkpoint: {MANIFEST_NAME} cannot be read ({error.strerror})"
        ) from error
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{path} is damaged or not of this version: {error}") from error
    if manifest.schema != SCHEMA:
        raise IntegrityError(f"{path} has schema {manifest.schema}, this version reads {SCHEMA}")
    for record in manifest.files:
        _check_size(folder / record.name, record)
    return manifest


def verify(folder: Path) -> Manifest:
    """`read_manifest`, and every file's hash. Raises IntegrityError that names the first wrong file."""
    manifest = read_manifest(folder)
    for record in manifest.files:
        if hash_file(folder / record.name) != record.xxh3_128:
            raise IntegrityError(
                f"{folder / record.name} does not match its hash in {MANIFEST_NAME}",
                hint="resume from an older checkpoint: remove this folder",
            )
    return manifest


def _check_size(path: Path, record: FileRecord) -> None:
    if "/" in record.name or record.name in {"", ".", ".."}:
        raise IntegrityError(f"the manifest of {path.parent} names `{record.name}`, which is outside its folder")
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise IntegrityError(f"{path} is missing from its checkpoint ({error.strerror})") from error
    if size_bytes != record.size_bytes:
        raise IntegrityError(f"{path} has {size_bytes} bytes, its manifest says {record.size_bytes}")


def scan_checkpoints(folder: Path) -> Iterator[DurableCheckpoint]:
    """Complete checkpoints in a run's `checkpoints` folder, newest step first; incomplete ones are passed over."""
    found: list[DurableCheckpoint] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            found.append(DurableCheckpoint(path, read_manifest(path)))
        except IntegrityError:
            continue
    yield from sorted(found, key=lambda checkpoint: checkpoint.manifest.step, reverse=True)
