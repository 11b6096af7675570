"""What is wanted: one training run, its data, its batch, how it survives."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from myriarch.spec.base import Spec
from myriarch.spec.fleet import Count, Fleet, Fraction, Name, NonNegative, Positive
from myriarch.spec.model import Model


class Data(Spec, frozen=True, kw_only=True):
    """Text to train on, read as bytes."""

    source: str = "stdlib"
    """`stdlib`: the sources of Python's standard library without its tests; else a UTF-8 file or a folder of such.
    A relative path starts at the run file."""
    pattern: str = "**/*"
    """Which files of a folder."""
    max_bytes: Annotated[int, Meta(gt=0)] | None = None


class Batch(Spec, frozen=True, kw_only=True):
    """One optimizer step's samples. A *slot* is one sequence of a step's batch."""

    sequences: Count
    """Global batch: sequences of one optimizer step, over all groups."""
    micro_sequences: Count = 1
    """Sequences of one forward and backward pass of one worker."""


class Optimizer(Spec, frozen=True, kw_only=True):
    """AdamW with linear warm-up and cosine decay (Loshchilov and Hutter, ICLR 2019)."""

    learning_rate: Positive = 1e-3
    minimum_learning_rate: NonNegative = 1e-4
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.95
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    clip_norm: Positive | None = 1.0


class Mesh(Spec, frozen=True, kw_only=True):
    """How a group splits the model over its devices; the axes multiply to the group's devices."""

    dp_replicate: Count = 1
    dp_shard: Count = 1

    @property
    def devices(self) -> int:
        return self.dp_replicate * self.dp_shard


class Group(Spec, frozen=True, kw_only=True):
    """One replica group: one copy of the model on one pool."""

    name: Name
    pool: Name
    nodes: Count
    mesh: Mesh


class Bridge(Spec, frozen=True, kw_only=True):
    """How groups merge what they learnt."""

    mode: Literal["every_step"] = "every_step"
    timeout_s: Positive = 60.0
    """A merge that takes longer is reported as a fault of the group that has not arrived."""


class Checkpoint(Spec, frozen=True, kw_only=True):
    """The memory tier and the disk tier."""

    memory_every_steps: Count | None = None
    """None: what the interval formula says for the fleet's failure rates and the measured step time."""
    copies: Annotated[int, Meta(ge=0, le=3)] = 1
    """Copies of each shard in the memory of other nodes, besides its own."""
    disk_every_steps: Count | None = None
    """None: ten times the memory interval. The last step of a run is always drained."""
    keep_on_disk: Count = 2


class Recovery(Spec, frozen=True, kw_only=True):
    """What to do when something is lost, and how soon to believe it."""

    missing_group: Literal["wait", "degrade"] = "wait"
    """A group that cannot be restored now: the others wait for it, or go on with its share of the batch after
    `wait_limit_s`."""
    healthy_groups: Literal["wait", "go_on"] = "wait"
    """While a group that was hit starts again, the others wait and all go back to the newest safe snapshot; or they
    keep their state and go on with the whole batch, and it takes their state once it is ready."""
    wait_limit_s: NonNegative = 30.0
    """With `degrade`: how long the others wait first. With `wait`: how long until the run is ended as failed."""
    reconnect_grace_s: NonNegative = 0.5
    """A node whose control connection closed is lost when it has not come back by then, and at once if its engine says
    that it exited."""
    heartbeat_interval_s: Positive = 0.2
    heartbeat_timeout_s: Positive = 5.0
    """Silent for so long: lost. Facts (exit, closed sockets) come first; this catches stopped and cut-off nodes."""
    hang_timeout_s: Positive = 20.0
    """A worker that neither steps nor waits for another: hung. Three times the slowest step seen is always allowed."""
    start_timeout_s: Positive = 120.0
    """From the launch of an incarnation until all its workers are ready."""
    max_restarts: Annotated[int, Meta(ge=0)] = 100
    """Restarts of the whole run. What healthy groups go on through is none: `recover.rests` limits it."""
    max_restarts_without_progress: Annotated[int, Meta(ge=0)] = 3
    """Such restarts in a row without one more completed step: then the run ends as failed."""


class ChaosEvent(Spec, frozen=True, kw_only=True):
    """A fault that the run inflicts on itself."""

    at_step: Annotated[int, Meta(ge=1)]
    action: Literal["kill", "stop", "slow"]
    target: str
    """A node (`fast-1`), a worker (`fast/1`: group and rank) or `controller`."""
    factor: Fraction | None = None
    """With `slow`: share of its speed that is left."""


class Run(Spec, frozen=True, kw_only=True):
    """One training run."""

    name: Name
    fleet: str
    """Path of the fleet file, relative to this one."""
    model: str
    """Path of the model file, relative to this one."""
    steps: Count
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    batch: Batch
    data: Data = Data()
    optimizer: Optimizer = Optimizer()
    groups: tuple[Group, ...] = ()
    """Empty: one group per pool, over all its nodes, sharded over all its devices."""
    shares: Literal["measured"] | dict[Name, Count] = "measured"
    """Sequences of the batch per group: in proportion to each group's measured speed, and split anew when the steps
    show other speeds than the calibration did; or as said here, for good."""
    bridge: Bridge = Bridge()
    checkpoint: Checkpoint = Checkpoint()
    recovery: Recovery = Recovery()
    chaos: tuple[ChaosEvent, ...] = ()
    validate_every_steps: Count | None = None
    output: str = "runs"
    """Folder of run directories, relative to the working directory."""
    note: str = ""


class ResolvedRun(Spec, frozen=True, kw_only=True):
    """A run with its fleet and model read and every default that needs them filled in: what `control` gets."""

    run: Run
    fleet: Fleet
    model: Model
