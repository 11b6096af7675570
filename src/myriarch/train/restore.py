"""State from a checkpoint of any layout, through DCP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.storage import StorageReader

from myriarch.arena.manifest import verify
from myriarch.errors import MyriarchError, UsageError
from myriarch.train.dcp import MemoryReader
from myriarch.train.state import Leaf

OWN_PREFIX: Final = "myriarch."
"""Entries of the session itself, of one rank each: restored where they are found, else left as they are."""


def load_from_slots(paths: tuple[str, ...], leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Restore tensors in place from all shards of one group's copy. Returns the values."""
    reader = MemoryReader(paths)
    try:
        return load_from(reader, leaves)
    finally:
        reader.close()


def load_from_folder(path: str, leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Restore tensors in place from a durable checkpoint, every file verified. Returns the values."""
    verify(Path(path))
    return load_from(FileSystemReader(path), leaves)


def load_from(reader: StorageReader, leaves: Mapping[str, Leaf]) -> dict[str, Any]:
    """Each rank plans and reads for itself: no collective, and nothing that another rank pickled."""
    reader.reset()
    known = reader.read_metadata().state_dict_metadata
    wanted = {name: leaf.content for name, leaf in leaves.items() if name in known or _must_be_there(leaf)}
    missing = sorted(wanted.keys() - known.keys())
    if missing:
        raise UsageError(
            f"the checkpoint lacks `{missing[0]}` and {len(missing) - 1} other entries of the state",
            hint="it was written by another model or script: start over with --fresh, or go back to that one",
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        try:
            load(wanted, storage_reader=reader, no_dist=True)
        except CheckpointException as error:
            for cause, _ in error.failures.values():
                if isinstance(cause, MyriarchError):
                    raise cause from error  # DCP packs it up together with its traceback
            raise
    return {name: content for name, content in wanted.items() if not isinstance(content, Tensor)}


def _must_be_there(leaf: Leaf) -> bool:
    """Entries of the session itself need not be, and tensors without elements are stored by nobody."""
    return not leaf.name.startswith(OWN_PREFIX) and not (isinstance(leaf.content, Tensor) and leaf.content.numel() == 0)
