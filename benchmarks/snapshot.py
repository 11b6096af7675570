"""What a snapshot into the memory tier costs, as a ratio to a plain copy of the same bytes in the same run.

    python benchmarks/snapshot.py [--mib 512] [--tensors 200] [--rounds 15] [--json]

Measured in turns, so that load of other processes hits all alike; medians, in wall-clock and in CPU seconds:

    memcpy     one memmove of the whole state into warm shared memory: the limit
    snapshot   begin, gather the tensors block by block and hash each block in cache, seal
    restore    verify each block and scatter it back into the live tensors
    verify     hash everything, copy nothing
    first      the same snapshot, the first one into a new slot (which its owner has faulted in)
    cold       a plain copy into shared memory that nobody has faulted in: what `first` would cost without that
    push       the sealed shard into another process's memory over loopback TCP, verified there and sealed
    raw        the same bytes over the same kind of connection, without frames, hashes or slots
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import platform
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from myriarch.arena.copier import SpanCopier
from myriarch.arena.memory import NodeMemory
from myriarch.arena.slot import Slot
from myriarch.event.events import HeldShard
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.wire.shards import ByteServer, push_shard
from myriarch.wire.store import KeyValueStore

MIB = 1 << 20
ALIGNMENT_BYTES = 64
TOKEN = "benchmark"
Times = dict[str, list[tuple[float, float]]]


def make_state(size_bytes: int, tensors: int) -> list[np.ndarray]:
    """Arrays of unlike sizes, like a model's: a few large, many small, none a multiple of a block."""
    weights = np.random.default_rng(0).pareto(1.0, tensors) + 0.01
    sizes = np.maximum(4, (weights / weights.sum() * size_bytes).astype(np.int64) // 4 * 4)
    return [np.random.default_rng(i).integers(0, 255, int(size), dtype=np.uint8) for i, size in enumerate(sizes)]


def make_copier(state: list[np.ndarray]) -> SpanCopier:
    """Each array at a cache line, as the checkpoint adapter lays them out: an unaligned copy is slower."""
    spans, offset = [], 0
    for array in state:
        spans.append((offset, int(array.ctypes.data), array.nbytes))
        offset += -(-array.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return SpanCopier(spans, offset)


def timed(times: Times, name: str, work: Callable[[], object]) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    times.setdefault(name, []).append((time.perf_counter() - wall, time.process_time() - cpu))


def new_slot(path: Path, payload_bytes: int) -> Slot:
    return Slot.create(
        path, run_id="bench", group=GroupId("g"), rank=Rank(0), world_size=1, role="own",
        layout_hash="", payload_bytes=payload_bytes, index_bytes=4096,
    )  # fmt: skip


def snapshot(slot: Slot, copier: SpanCopier, step: int) -> None:
    slot.begin(step=Step(step), incarnation=Incarnation(1), index=b"index")
    slot.seal(copier.copy_into(slot))


def cold_copy(path: Path, source: np.ndarray) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.ftruncate(descriptor, source.nbytes)
    mapping = mmap.mmap(descriptor, source.nbytes)
    os.close(descriptor)
    target = np.frombuffer(mapping, dtype=np.uint8)
    ctypes.memmove(int(target.ctypes.data), int(source.ctypes.data), source.nbytes)
    del target
    mapping.close()
    path.unlink()


@contextmanager
def child(work: Callable[[int], None]) -> Iterator[int]:
    """Runs `work(pipe)` in a forked process; yields the port that it writes to the pipe."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            work(writer)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        yield int(os.read(reader, 16))
    finally:
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def serve_shards(folder: Path, writer: int) -> None:
    memory = NodeMemory(folder / "peer", "bench")
    server = ByteServer("127.0.0.1", TOKEN, KeyValueStore(), memory, on_received=lambda shard: commit(memory, shard))
    server.start()
    os.write(writer, str(server.port).encode())
    signal.pause()


def commit(memory: NodeMemory, shard: HeldShard) -> None:
    memory.commit(shard.step, shard.incarnation)


def serve_raw(size_bytes: int, writer: int) -> None:
    target = memoryview(mmap.mmap(-1, size_bytes))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.write(writer, str(listener.getsockname()[1]).encode())
        connection, _ = listener.accept()
        while True:
            got = 0
            while got < size_bytes:
                count = connection.recv_into(target[got : got + MIB])
                if not count:
                    return
                got += count
            connection.sendall(b"!")


def exchange_raw(connection: socket.socket, data: np.ndarray) -> None:
    connection.sendall(data.data)
    connection.recv(1)


def measure(folder: Path, size_bytes: int, tensors: int, rounds: int) -> tuple[Times, int]:
    state = make_state(size_bytes, tensors)
    copier = make_copier(state)
    size_bytes = copier.payload_bytes
    flat = np.full(size_bytes, 1, dtype=np.uint8)
    times: Times = {}
    with (
        child(lambda writer: serve_shards(folder, writer)) as shard_port,
        child(lambda writer: serve_raw(size_bytes, writer)) as raw_port,
        socket.create_connection(("127.0.0.1", raw_port)) as raw,
        new_slot(folder / "warm", size_bytes) as slot,
    ):
        for round_ in range(rounds + 1):
            timed(times, "memcpy", partial(ctypes.memmove, slot.payload_address, int(flat.ctypes.data), size_bytes))
            timed(times, "snapshot", partial(snapshot, slot, copier, round_ + 1))
            timed(times, "verify", slot.verify)
            timed(times, "push", lambda: push_shard("127.0.0.1", shard_port, TOKEN, slot.held(), slot))
            timed(times, "raw", partial(exchange_raw, raw, flat))
            timed(times, "restore", lambda: copier.copy_out(slot))
            if round_ % 4 == 0:
                with new_slot(folder / "first", size_bytes) as fresh:
                    timed(times, "first", lambda: snapshot(fresh, copier, 1))
                (folder / "first").unlink()
                timed(times, "cold", lambda: cold_copy(folder / "cold", flat))
    for name in ("memcpy", "snapshot", "verify", "push", "raw", "restore"):
        del times[name][0]  # the round that warms up
    return times, size_bytes


def summarise(times: Times, size_bytes: int, arguments: argparse.Namespace) -> dict[str, object]:
    wall = {name: statistics.median(wall for wall, _ in values) for name, values in times.items()}
    cpu = {name: statistics.median(cpu for _, cpu in values) for name, values in times.items()}
    return {
        "schema": "myriarch.benchmark.snapshot/1",
        "machine": {"system": platform.release(), "cpus": os.cpu_count(), "python": platform.python_version()},
        "state_bytes": size_bytes,
        "tensors": arguments.tensors,
        "rounds": arguments.rounds,
        "wall_s": wall,
        "cpu_s": cpu,
        "ratios": {
            "snapshot_to_memcpy": wall["snapshot"] / wall["memcpy"],
            "snapshot_to_memcpy_cpu": cpu["snapshot"] / cpu["memcpy"],
            "restore_to_memcpy": wall["restore"] / wall["memcpy"],
            "first_to_memcpy": wall["first"] / wall["memcpy"],
            "cold_to_memcpy": wall["cold"] / wall["memcpy"],
            "push_to_raw": wall["push"] / wall["raw"],
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=512, help="size of the state")
    parser.add_argument("--tensors", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="myriarch-bench-", dir="/dev/shm"))
    try:
        times, size_bytes = measure(folder, arguments.mib * MIB, arguments.tensors, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    result = summarise(times, size_bytes, arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{size_bytes / MIB:.0f} MiB in {arguments.tensors} tensors, median of {arguments.rounds}")
    memcpy = statistics.median(wall for wall, _ in times["memcpy"])
    for name, values in times.items():
        wall = statistics.median(value for value, _ in values)
        cpu = statistics.median(value for _, value in values)
        speed = f"{wall * 1e3:8.1f} ms  {size_bytes / wall / 1e9:6.2f} GB/s  {wall / memcpy:5.2f} x memcpy"
        print(f"  {name:9}{speed}  cpu {cpu * 1e3:7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
