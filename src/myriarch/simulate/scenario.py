"""A scenario: a fleet, what is asked of it, what goes wrong, and under which policy. The file of `myriarch simulate`.

One of three things is simulated: `workload`, many jobs that a scheduler shares the fleet among; `training`, one job
on all of it; `run`, a run file in virtual time. Paths start at the scenario's folder. Instants are seconds since the
scenario begins.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from myriarch.schedule.job import Kind, Within
from myriarch.simulate.breakdowns import Course
from myriarch.simulate.scenario_options import Defragment, Lend, PowerLimit, SparesByRisk
from myriarch.simulate.workload.tasks import Estimates
from myriarch.spec.base import Count, Fraction, Name, NonNegative, Positive, Spec
from myriarch.spec.fleet import Fleet, Precision
from myriarch.spec.run import ResolvedRun

TraceKind = Literal["swf", "compact", "philly", "helios", "acme", "openb", "pai", "sia"]
GeneratorName = Literal[
    "philly", "helios", "seren", "kalos", "pai", "lublin", "acme-seren", "acme-kalos", "sia-philly", "sia-saturn",
    "gavel",
]  # fmt: skip
"""Acme's two draw sizes, run times and states together, fitted to all of its published aggregates. Sia's two and
Gavel's draw trainings whose speeds on unlike GPUs were measured: pools have the names of those."""
PolicyName = Literal[
    "fifo", "easy", "sjbf", "conservative", "priority", "preemptive", "fair", "las", "srtf", "srsf", "qssf", "gittins",
    "deadline", "gavel", "elastic", "myriarch",
]  # fmt: skip
"""`simulate.scenario_policy` says what each is."""
OrderName = Literal["arrival", "shortest", "smallest", "largest", "smallest-area"]
Share = Annotated[float, Meta(ge=0, le=1)]
Price = Annotated[float, Meta(ge=-1e6, le=1e6)]
Seconds = Annotated[float, Meta(ge=1)]
"""Between two looks at the same: with less, time hardly passes."""
Seed = Annotated[int, Meta(ge=0, le=2**53)]
INSTANT_LIMIT_S: Final = 1e12
"""Thirty thousand years: past that, seconds as floating-point numbers are too coarse for a ledger of nanoseconds."""
Instant = Annotated[float, Meta(ge=0, le=INSTANT_LIMIT_S)]
Duration = Annotated[float, Meta(gt=0, le=INSTANT_LIMIT_S)]
DEVICES_LIMIT: Final = 2**31 - 1
"""Of one job: what traces are read with (`workload.trace`), and far above any fleet."""


class Generator(Spec, frozen=True, kw_only=True):
    """Jobs that are drawn: synthetic, after published aggregates."""

    name: GeneratorName
    jobs: Annotated[int, Meta(ge=1, le=10_000_000)]
    load: Positive | None = None
    """Device-seconds asked for over those there are. Needed, except with `lublin`, which has arrivals of its own,
    Acme's two (0.55), Sia's two (as many jobs an hour as in the publication: 20) and `gavel` (6 an hour). Of the last
    three, device-seconds are those on the GPUs that run times are of."""
    seed: Seed | None = None
    """None: the scenario's, so that each seed of a sweep draws other jobs."""
    multiple: bool | None = None
    """Of `gavel`: some jobs on 2, 4 or 8 devices. None: all on one."""


class ListedJob(Spec, frozen=True, kw_only=True):
    """One job, written down."""

    id: str
    submit_s: Instant = 0.0
    devices: Annotated[int, Meta(ge=1, le=DEVICES_LIMIT)]
    run_s: Duration
    """How long it runs once it started, undisturbed; no policy sees it."""
    estimate_s: Duration | None = None
    """What its user says; None: the run time."""
    tenant: str = ""
    user: str = ""


class Trait(Spec, frozen=True, kw_only=True):
    """What some of the jobs are like: a trace says little more than sizes and times. Later traits go before earlier."""

    # Which jobs; all that is said must hold.
    devices_least: Count | None = None
    devices_most: Count | None = None
    tenants: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """What the trace calls their kind: `Pretrain`, `LS`, a queue's name."""
    share: Fraction = 1.0
    """Of those jobs, drawn one by one."""
    # What holds for them; None: as it was.
    kind: Kind | None = None
    within: Within | None = None
    """Largest part of the network that a job may be spread over."""
    pools: tuple[str, ...] | None = None
    precision: Precision | None = None
    """Only pools whose chip has it will do."""
    quality: Share | None = None
    sizes: tuple[Count, ...] | None = None
    """Other numbers of devices that will do."""
    size_factors: tuple[Positive, ...] | None = None
    """The same as multiples of what is asked for: [0.5, 2]."""
    elastic: bool | None = None
    preemptible: bool | None = None
    save_s: NonNegative | None = None
    restart_s: NonNegative | None = None
    saves_every_s: Positive | None = None
    deadline_factor: Positive | None = None
    """The deadline is so many estimates after the submission."""


class Scaling(Spec, frozen=True, kw_only=True):
    """How fast jobs get on with other devices than those that their run times are of."""

    reference: str = ""
    """The pool that run times are of. Empty: the first."""
    by_pool: dict[str, Positive] = msgspec.field(default_factory=dict)
    """Speeds of pools, in any unit that all of them share. A pool that is not named: its chip's peak in the job's
    precision, in FLOP/s."""
    exponent: Fraction = 1.0
    """Of the devices: with 1 twice as many take half the time, with 0.8 they take 57 % of it."""


class Workload(Spec, frozen=True, kw_only=True):
    """Jobs: of a trace, of a generator, or listed. Exactly one of the three."""

    trace: str = ""
    """A file in the original format of its source, plain or gzipped."""
    kind: TraceKind | None = None
    """None: the one that the file looks like."""
    part: Count | None = None
    """Which of the workloads of a file of Sia's. None: the first."""
    tuning: Literal["rigid", "elastic"] | None = None
    """Of Sia's jobs: with the devices and batch of their users, or with any, as suits. None: elastic."""
    generator: Generator | None = None
    jobs: tuple[ListedJob, ...] = ()
    estimates: Estimates | None = None
    """What schedulers are told. None: what users asked for (`asked`); the next usual limit (`usual`) where jobs are
    generated."""
    from_s: NonNegative = 0.0
    """Jobs submitted from here on; the scenario begins at the first of them."""
    to_s: Positive | None = None
    """Until before this instant of the trace."""
    most_jobs: Count | None = None
    scaling: Scaling | None = None
    """None: pools are alike, and a job runs with the devices it asked for."""
    mfu: Fraction | None = None
    """Share of the peak that kept time becomes, in model FLOPs. A scheduler's world does not know it; None: unknown,
    and so is the effective number."""
    traits: tuple[Trait, ...] = ()


class PriorityWeights(Spec, frozen=True, kw_only=True):
    """Of the factors of a job's priority (Slurm's)."""

    age: NonNegative = 1000.0
    fair_share: NonNegative = 10000.0
    size: NonNegative = 0.0
    quality: NonNegative = 0.0


class Policy(Spec, frozen=True, kw_only=True):
    """Who runs next. Each policy takes some of the parameters (`simulate.scenario_policy.POLICIES`)."""

    name: PolicyName = "easy"
    order: OrderName | None = None
    """Who comes first."""
    depth: Count | None = None
    """So many of those who wait are promised a start. None: 50 on nodes, all by number."""
    weights: PriorityWeights | None = None
    shares: dict[str, Positive] | None = None
    """Promised shares by tenant, or by `tenant/user`. None: equal shares."""
    algorithm: Literal["fair tree", "classic"] | None = None
    half_life_s: Positive | None = None
    """Of what a tenant used."""
    age_most_s: Positive | None = None
    refresh_s: Seconds | None = None
    favour_small: bool | None = None
    predictor: Literal["estimate", "user-means", "learned"] | None = None
    """Of run times: what users say, the mean of the user's past jobs of that size, or forests grown from past jobs."""
    margin: NonNegative | None = None
    """How far behind a running job has to stand before it yields: a share of the rank, or points of priority."""
    exponent: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Of the devices in a rank: 1 serves the mean, less favours large jobs."""
    thresholds_device_s: tuple[Positive, ...] | None = None
    """Attained service at which a job falls to the next queue."""
    starve_factor: Positive | None = None
    slack_s: NonNegative | None = None
    spell: NonNegative | None = None
    """A job that began to run is let run for so many times what its next stop and start will cost."""
    price: NonNegative | None = None
    """What a second lost by a preemption counts against one gained."""
    exchange: bool | None = None
    """Whether a newcomer has to gain more than all its victims lose."""
    holds: bool | None = None
    """Whether devices are held for the first in the queue."""
    guard_s: Positive | None = None
    """A job that waited so long has its turn, whatever its rank."""
    guard_share: Share | None = None
    """Of the devices that may be used so."""
    review_s: NonNegative | None = None
    """Between two looks at who should be stopped while nothing happens: 1 s at least; 0: never."""
    objective: Literal["max-min", "makespan", "finish-time", "cheapest"] | None = None
    """What Gavel's program maximises."""
    solver: Literal["marginal", "program"] | None = None
    """Of elastic resizing: one or two jobs at a time (fast), or Sia's integer program."""
    round_s: Seconds | None = None
    """Between two decisions of `gavel` and `elastic`."""
    # Around any policy that can be told of it (`simulate.scenario_around`).
    lending: Lend | None = None
    """Inference services own devices of some pools and lend what they do not need."""
    power: PowerLimit | None = None
    """A cap on power; jobs with a deadline may wait for cheaper hours."""
    defragment: Defragment | bool | None = None
    """Running jobs are moved together where a gang would fit by count; `true`: as usual."""
    spares: SparesByRisk | bool | None = None
    """Spares by risk, in place of the fleet's fixed numbers; `true`: as usual."""
    prefer: Literal["cheapest-right"] | None = None
    """Which pool a job tries first: where its precision is cheapest, FP64 left to those who compute in it. None: the
    one with fewest precisions."""


class Lemons(Spec, frozen=True, kw_only=True):
    """A few nodes that fail far more often than the others."""

    share: Annotated[float, Meta(gt=0, lt=1)]
    """Of the nodes."""
    times: Annotated[float, Meta(ge=1)]
    """As often as the others."""


class Upkeep(Spec, frozen=True, kw_only=True):
    """Announced maintenance, node by node."""

    every_s: Annotated[float, Meta(ge=60)]
    """Of one node."""
    duration_s: Positive
    announced_s: NonNegative = 0.0


class ListedFault(Spec, frozen=True, kw_only=True):
    """One fault, written down."""

    at_s: Instant
    node: str
    """`<pool>-<index>`."""
    course: Course = "repair"
    cause: str = "listed"
    """In anybody's words."""
    duration_s: Duration | None = None
    """Away, slow, or until the corruption is noticed. Needed but with `in_place`; in a run file's run None is for
    good."""
    factor: Fraction | None = None
    """With `slow`: share of its speed that is left."""
    announced_s: NonNegative = 0.0
    """With `maintenance`: how long before."""


class FaultModel(Spec, frozen=True, kw_only=True):
    """What goes wrong: by a published source, by a rate of one's own, as a log or a list says, or by the pools'
    `failures`. A run file's run takes a log or a list, beside its own `chaos`."""

    source: str = ""
    """Of `simulate/data/failure_rates.yaml`: llama3_405b, meta_ft_hsdp, meta_rsc_1, meta_rsc_2, acme, b200_504,
    blue_waters."""
    per_node_day: NonNegative | None = None
    """Failures of one node and day, for all pools. None, and no source or log: what the fleet's pools say."""
    log: str = ""
    """A CSV file of breakdowns to replay: at_s, pool, node, cause, course, duration_s, factor, announced_s."""
    listed: tuple[ListedFault, ...] = ()
    """Faults one by one."""
    rate: NonNegative = 1.0
    """Times as often as the source or the rates say."""
    repair_s: Positive | None = None
    """Mean; with rates of one's own. None: the pools' own (theirs are medians), or a day."""
    repair_share: Share | None = None
    """Of the failures, that take the node away; the others only its processes. None: Llama 3's, 78 %."""
    shape: Annotated[float, Meta(ge=0.1, le=100)] | None = None
    """Of the Weibull gaps between failures; below 1 they come in bursts. None: the source's."""
    lemons: Lemons | None = None
    """None: the source's."""
    switches: bool = False
    """Racks fail as a whole, too (published sources have them already)."""
    rows: bool = False
    """Power or cooling takes whole rows."""
    fail_slow: bool = False
    """Nodes become slower for a while."""
    noticed_s: NonNegative = 0.0
    """Mean time until silent corruption is noticed; of sources that have it."""
    maintenance: Upkeep | None = None
    detect_s: NonNegative = 0.0
    """From a fault until anybody knows; its job's devices stand still meanwhile. Of jobs: a training has
    `simulate.fleet_terms`' for each cause."""


class Grid(Spec, frozen=True, kw_only=True):
    """Energy by the hour. What is said here goes before the fleet's sites."""

    price_per_kwh: Price | tuple[Price, ...] | None = None
    """One price, or one for each hour from the beginning of the scenario; when they are over they begin anew, so 24
    are a day's and 168 a week's. An hour may have a negative price."""
    hours: str = ""
    """A CSV file with `site,hour,price_per_kwh` and, where known, `carbon_kg_per_kwh,temperature_c,pue`, by the sites
    of the fleet's pools."""
    currency: str = ""
    """Of these prices."""
    carbon_kg_per_kwh: float | tuple[float, ...] | None = None
    begins_hour: Annotated[int, Meta(ge=0, le=23)] = 0
    """Local hour of the day at which the scenario begins; matters to the tariffs of the fleet's sites."""


class Training(Spec, frozen=True, kw_only=True):
    """One training on all nodes of the fleet but its spares. For what is left out see `simulate.fleet_terms`."""

    step_s: Positive
    """Of the whole job when nothing is wrong."""
    state_bytes: Positive
    """Of one device's share of the training state: 16 bytes for each parameter over the devices of a group, or so."""
    groups_per_pool: Count = 1
    """Replica groups; each has a copy of the model."""
    copies: Annotated[int, Meta(ge=0, le=3)] = 1
    """Of each shard in the memory of other nodes of its group."""
    memory_every_steps: Count | None = None
    """None: by the interval formula."""
    disk_every_steps: Count | None = None
    memory: bool = True
    """Without a memory tier a save stops the work until the store has it."""
    healthy_groups: Literal["wait", "go_on"] = "wait"
    """As in a run file's `recovery`: with `go_on` healthy groups go on without one that was hit, and hand it their
    state when it is back."""
    whole_job: bool = False
    """All processes are started anew after every fault."""
    merge_s: NonNegative = 0.0
    """What merging between groups adds to a step; part of `step_s`."""
    store_bandwidth_bytes_per_s: Positive | None = None
    """Of one device to the store of durable checkpoints."""
    restart_s: NonNegative | None = None
    speeds: dict[str, Positive] = msgspec.field(default_factory=dict)
    """Of a device of each pool, in any unit that all share. Not named: 1."""
    mfu: Fraction | None = None
    """Share of the peak that kept time becomes, in model FLOPs. None: unknown, and so is the effective number."""


class RunTiming(Spec, frozen=True, kw_only=True):
    """How fast things go in a simulated run. What is left out is what this project measured without a GPU."""

    sequence_s: dict[Name, Positive] = msgspec.field(default_factory=dict)
    """Of one device for one sequence of the batch, by pool."""
    memory_bandwidth_bytes_per_s: Positive | None = None
    """Copies inside a node."""
    network_bandwidth_bytes_per_s: Positive | None = None
    """Between nodes, one stream."""
    disk_bandwidth_bytes_per_s: Positive | None = None
    join_s: NonNegative | None = None
    """From the start of the run until agents join."""


class TuningPlan(Spec, frozen=True, kw_only=True):
    """How `--tune` searches."""

    parameters: tuple[str, ...] = ()
    """Of the policy: which are searched, like `spell` or `weights.age`. Empty: all."""
    week_s: Annotated[float, Meta(ge=60)] = 604_800.0
    """Length of the periods that the workload is cut into."""
    past: Fraction = 0.6
    """Of them: what is searched; the others prove."""
    candidates: Annotated[int, Meta(ge=2, le=10_000)] = 27
    """Settings that are drawn."""
    refinements: Annotated[int, Meta(ge=0, le=10_000)] = 9
    """Further ones around the best."""


class Scenario(Spec, frozen=True, kw_only=True):
    """A question to the simulator."""

    name: Name
    fleet: str | Fleet = ""
    """A fleet file, a line like `h100-sxm:1024`, or pools described here."""
    workload: Workload | None = None
    training: Training | None = None
    run: str | ResolvedRun = ""
    """A run file, with its own fleet, model and faults (`chaos`): the same control runs it step by step."""
    timing: RunTiming | None = None
    """Of a run."""
    policy: Policy = Policy()
    placement: Literal["nodes", "numbers"] = "nodes"
    """`numbers`: any device is as good as any other, as in traces of supercomputers; for fleets of one pool."""
    faults: FaultModel | None = None
    """None: nothing goes wrong but, in a run, its `chaos`."""
    power: Grid | None = None
    tuning: TuningPlan | None = None
    """Of `--tune`. None: weeks, six of ten of them to search."""
    forecasts: bool = False
    """Whether it is asked what each job of a workload would have been told of its wait when it came: P50 and P90, by
    what had happened until then, under whatever policy."""
    until_s: Duration | None = None
    """What has not ended by then is counted as it stands. None: until all jobs ended."""
    seed: Seed = 0
    """Every draw is a pure function of it."""
    seeds: Count = 1
    """That many, from `seed` on; more than one is a sweep."""
    output: str = "runs"
    """Folder of run directories, relative to the working directory."""
    note: str = ""
