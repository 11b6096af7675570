"""Which works are timed on one device: matrix products by shape, streaming by size, launches, transfers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from myriarch.spec.fleet import Precision
from myriarch.spec.profile import HostRate, Launches, Layout, MemoryRate, PairRate, ProductRate
from myriarch.train.stopwatch import Spread, Stopwatch, Work

Operation: TypeAlias = Literal["copy", "triad", "new"]
Direction: TypeAlias = Literal["to_device", "from_device"]

MIB: Final = 2**20
GRAPH_KERNELS: Final = 200
MEMORY_SHARE: Final = 16
"""A work asks for at most one part in so many of the device's memory."""

DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.float8_e4m3fn,
}
SQUARES: Final = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SQUARES_BACKWARD: Final = (512, 1024, 2048, 4096)
"""Those that are timed in the layouts of the backward pass too."""
OBLONGS_BACKWARD: Final = 4
"""The first so many of `OBLONGS`, likewise."""
PROBE: Final = 1024
"""Side of the first product of each precision: from its rate follows how long the others will take."""
OBLONGS: Final[tuple[tuple[int, int, int], ...]] = (
    # tokens, outputs, inputs of a transformer's layers
    (512, 1536, 512), (2048, 3072, 1024), (512, 512, 1536), (2048, 1024, 4096),
    (4096, 12288, 4096), (4096, 4096, 16384),
    # shallow and deep
    (1024, 1024, 64), (1024, 1024, 256), (4096, 4096, 128), (256, 256, 8192), (1024, 1024, 16384),
    # few tokens
    (16, 4096, 4096), (128, 4096, 4096),
)  # fmt: skip
STREAMS_MIB: Final[dict[bool, tuple[int, ...]]] = {True: (64, 4, 16, 1, 256), False: (256, 1024, 64, 16, 1)}
"""Sizes of one array on a CPU, and on accelerators."""


def precisions(kind: str) -> tuple[tuple[Precision, bool], ...]:
    """What is timed on a kind of device, and whether by all shapes or by the large ones only."""
    if kind == "cpu":
        return (("fp32", True), ("bf16", True), ("fp16", False))
    tf32: tuple[tuple[Precision, bool], ...] = (("tf32", False),) if kind == "cuda" and not torch.version.hip else ()
    return (("bf16", True), ("fp8", True), ("fp16", False), ("fp32", False), *tf32)


def shapes(precision: Precision, *, all_shapes: bool) -> Iterator[tuple[Layout, int, int, int]]:
    """Layout and sizes of the products to time."""
    layouts: tuple[Layout, ...] = ("forward", "input_gradient", "weight_gradient")
    # torch multiplies 8-bit numbers in one layout only.
    backward = all_shapes and precision != "fp8"
    for side in SQUARES:
        if all_shapes or side >= PROBE:
            for layout in layouts if backward and side in SQUARES_BACKWARD else layouts[:1]:
                yield layout, side, side, side
    for index, (m, n, k) in enumerate(OBLONGS if all_shapes else ()):
        for layout in layouts if backward and index < OBLONGS_BACKWARD else layouts[:1]:
            yield layout, m, n, k


@dataclasses.dataclass(frozen=True)
class Product:
    """A product to time."""

    precision: Precision
    layout: Layout
    m: int
    n: int
    k: int

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.n * self.k

    @property
    def size_bytes(self) -> int:
        return DTYPES[self.precision].itemsize * (self.m * self.k + self.k * self.n + self.m * self.n)

    def row(self, seconds: list[float]) -> ProductRate:
        spread = Spread.of(seconds)
        rate, low, high = spread.rates(self.flops)
        return ProductRate(
            precision=self.precision, layout=self.layout, m=self.m, n=self.n, k=self.k,
            rate_flops_per_s=rate, rate_p10_flops_per_s=low, rate_p90_flops_per_s=high,
            repeats=spread.repeats, doubtful=spread.doubtful,
        )  # fmt: skip

    def prepare(self, device: torch.device) -> Callable[[], object]:
        """Operands of random numbers: zeros would draw less power, and run at higher clocks, than a training does."""
        # Each operand lies in memory as a linear layer has it, so that the library sees the transposition it will see.
        left_shape = (self.k, self.m) if self.layout == "weight_gradient" else (self.m, self.k)
        right_shape = (self.n, self.k) if self.layout == "forward" else (self.k, self.n)
        dtype = DTYPES[self.precision]
        left, right = (torch.rand(shape, device=device).sub_(0.5).to(dtype) for shape in (left_shape, right_shape))
        left = left.T if self.layout == "weight_gradient" else left
        right = right.T if self.layout == "forward" else right
        if self.precision == "fp8":
            return _scaled(left, right)
        out = torch.empty(self.m, self.n, dtype=dtype, device=device)
        if device.type != "cuda" or dtype is not torch.float32:
            return lambda: torch.mm(left, right, out=out)

        def with_or_without_tf32() -> None:
            torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
            torch.mm(left, right, out=out)

        return with_or_without_tf32


def _scaled(left: Tensor, right: Tensor) -> Callable[[], object]:
    one = torch.ones((), device=left.device)
    return lambda: torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)


def product_works(watch: Stopwatch, memory_bytes: float) -> list[tuple[Product, Work]]:
    """All products that fit in memory: one of each precision to know its rate, then from small to large, because time
    may run out."""
    found: list[tuple[Product, Work]] = []

    def work_of(product: Product) -> Work:
        def expected_s() -> float:
            """By the best rate of this precision so far."""
            best = [
                other.flops / min(work.seconds)
                for other, work in found
                if work.seconds and other.precision == product.precision
            ]
            return product.flops / max(best) if best else 0.0

        name = f"{product.precision} {product.m} x {product.n} x {product.k} {product.layout}"
        return Work(name=name, prepare=lambda: product.prepare(watch.device), expected_s=expected_s)

    products = [
        Product(precision, *shape)
        for precision, all_shapes in precisions(watch.device.type)
        for shape in shapes(precision, all_shapes=all_shapes)
    ]
    products.sort(key=lambda each: (each.m, each.n, each.k) != (PROBE, PROBE, PROBE) and each.flops)
    found.extend((each, work_of(each)) for each in products if each.size_bytes * MEMORY_SHARE <= memory_bytes)
    return found


def memory_works(watch: Stopwatch, memory_bytes: float) -> list[tuple[Operation, int, Work]]:
    """Streams of each operation and size."""
    found: list[tuple[Operation, int, Work]] = []
    operations: tuple[Operation, ...] = ("copy", "triad", "new")
    for mib, operation in itertools.product(STREAMS_MIB[watch.device.type == "cpu"], operations):
        if 3 * mib * MIB * MEMORY_SHARE <= memory_bytes:
            prepare = _stream(operation, mib * MIB, watch.device)
            found.append((operation, mib * MIB, Work(name=f"{operation} of {mib} MiB", prepare=prepare)))
    return found


def _stream(operation: Operation, size_bytes: int, device: torch.device) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        out, one, other = (torch.ones(size_bytes // 4, device=device) for _ in range(3))
        match operation:
            case "copy":
                return lambda: out.copy_(one)
            case "triad":
                return lambda: torch.add(one, other, alpha=0.5, out=out)
            case "new":
                return lambda: torch.add(one, other, alpha=0.5)

    return prepare


def memory_row(operation: Operation, size_bytes: int, seconds: list[float]) -> MemoryRate:
    spread = Spread.of(seconds)
    rate, low, high = spread.rates((2.0 if operation == "copy" else 3.0) * size_bytes)
    return MemoryRate(
        operation=operation, size_bytes=size_bytes,
        rate_bytes_per_s=rate, rate_p10_bytes_per_s=low, rate_p90_bytes_per_s=high,
        repeats=spread.repeats, doubtful=spread.doubtful,
    )  # fmt: skip


def launch_works(watch: Stopwatch) -> tuple[Work, Work | None]:
    """Kernels with next to nothing to do: one by one, and where graphs can be captured, many in one."""

    def tiny() -> Callable[[], object]:
        value = torch.zeros(16, device=watch.device)
        return lambda: value.add_(1.0)

    graph = Work(name="captured kernels", prepare=lambda: _graph(watch)) if watch.device.type == "cuda" else None
    return Work(name="launches", prepare=tiny), graph


def _graph(watch: Stopwatch) -> Callable[[], object]:
    value = torch.zeros(16, device=watch.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_KERNELS):
            value.add_(1.0)
    return graph.replay


def launches(host: Work, graph: Work | None) -> Launches | None:
    if not host.seconds:
        return None
    spread = Spread.of(host.seconds)
    return Launches(
        host_s=spread.median_s, host_p10_s=spread.p10_s, host_p90_s=spread.p90_s,
        kernel_s=Spread.of(graph.seconds).median_s / GRAPH_KERNELS if graph and graph.seconds else None,
        repeats=spread.repeats, doubtful=spread.doubtful,
    )  # fmt: skip


HOST_MIB: Final = (64, 1, 16)


def host_works(watch: Stopwatch) -> list[tuple[Direction, int, Work]]:
    """Between pinned memory and the device; none for a CPU."""
    directions: tuple[Direction, ...] = ("to_device", "from_device")
    if watch.device.type == "cpu":
        return []
    return [
        (direction, mib * MIB, Work(name=f"{direction} {mib} MiB", prepare=_host(direction, mib * MIB, watch.device)))
        for mib, direction in itertools.product(HOST_MIB, directions)
    ]


def _host(direction: Direction, size_bytes: int, device: torch.device) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        near = torch.ones(size_bytes // 4, pin_memory=device.type != "mps")
        far = torch.ones(size_bytes // 4, device=device)
        into, out_of = (far, near) if direction == "to_device" else (near, far)
        return lambda: into.copy_(out_of, non_blocking=True)

    return prepare


def host_row(direction: Direction, size_bytes: int, seconds: list[float]) -> HostRate:
    spread = Spread.of(seconds)
    rate, low, high = spread.rates(size_bytes)
    return HostRate(
        direction=direction, size_bytes=size_bytes,
        rate_bytes_per_s=rate, rate_p10_bytes_per_s=low, rate_p90_bytes_per_s=high,
        repeats=spread.repeats, doubtful=spread.doubtful,
    )  # fmt: skip


PAIR_MIB: Final = 64


def pair_works(watch: Stopwatch, count: int) -> list[tuple[int, int, Work]]:
    """From every device to every other."""
    kind = watch.device.type

    def copy(source: int, target: int) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            out_of = torch.ones(PAIR_MIB * MIB // 4, device=torch.device(kind, source))
            into = torch.empty_like(out_of, device=torch.device(kind, target))
            return lambda: into.copy_(out_of, non_blocking=True)

        return prepare

    return [
        (source, target, Work(name=f"device {source} to {target}", prepare=copy(source, target)))
        for source, target in itertools.permutations(range(count), 2)
    ]


def pair_row(source: int, target: int, seconds: list[float]) -> PairRate:
    spread = Spread.of(seconds)
    rate, low, high = spread.rates(PAIR_MIB * MIB)
    return PairRate(
        source=source, target=target, size_bytes=PAIR_MIB * MIB,
        rate_bytes_per_s=rate, rate_p10_bytes_per_s=low, rate_p90_bytes_per_s=high,
        repeats=spread.repeats, doubtful=spread.doubtful,
    )  # fmt: skip
