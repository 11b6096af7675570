"""The verbs, their arguments and options. Each calls the function of its own module, which it imports itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, ParamSpec

import typer

from myriarch import __version__
from myriarch.cli import EXIT_CODES, VERBS
from myriarch.cli.edge import at_edge

P = ParamSpec("P")

app = typer.Typer(
    name="myriarch",
    help="One effective training system out of unlike, unreliable, expensive accelerators.",
    epilog=f"Exit codes: {EXIT_CODES}.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich costs as much time as all the rest of `--help`
)


def verb(function: Callable[P, int | None]) -> Callable[P, None]:
    """Make `function` the verb of its name: its docstring is the help, its result the exit code."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(at_edge(lambda: function(*args, **kwargs)))

    app.command(name=function.__name__, short_help=VERBS[function.__name__])(command)
    return command


def run(arguments: list[str]) -> int:
    """Parse and carry out a command line. Returns the exit code; a wrong one is explained on stderr and gives 2."""
    try:
        app(arguments, prog_name="myriarch")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        raise typer.Exit(at_edge(lambda: print(f"myriarch {__version__}")))


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version of Myriarch.")
    ] = False,
) -> None:
    """One effective training system out of unlike, unreliable, expensive accelerators."""


@verb
def train(
    run_file: Annotated[str, typer.Argument(metavar="RUN", help="A run file: YAML, JSON or TOML.")],
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: ignore the run's checkpoints.")] = False,
) -> int:
    """Train the reference model of a run file on its fleet, through failures, and account for every device-second.

    The same command again resumes from the newest checkpoint. Ctrl-C and SIGTERM take a last snapshot and end
    everything cleanly.
    """
    from myriarch.cli import train as module

    return module.train(run_file, fresh=fresh)


@verb
def report(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="Name of a run, or a folder of one launch; default: the newest.")
    ] = "",
    *,
    json_output: Annotated[bool, typer.Option("--json", help="For programs: see `myriarch schema report`.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh; default: what MYRIARCH_LANG says, else en.")] = "",
) -> int:
    """Where every device-second of a run went: the four factors, the waterfall of leaves, the incidents."""
    from myriarch.cli import report as module

    return module.report(run, json_output=json_output, lang=lang)


@verb
def chaos(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="kill, stop, slow or resume.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="Node `fast-1`, worker `fast/1`, or `controller`.")],
    *,
    run: Annotated[str, typer.Option("--run", help="Name of a run; default: the newest.")] = "",
    factor: Annotated[float | None, typer.Option("--factor", help="With slow: share of speed left.")] = None,
) -> int:
    """Inflict a fault on a running fleet, and watch it go on."""
    from myriarch.cli import chaos as module

    return module.chaos(action, target, run=run, factor=factor)


@verb
def plan(
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="A model file, a name like llama-3.1-405b, or a size like 500B.")
    ] = "",
    fleet: Annotated[
        str,
        typer.Option(
            "--fleet", metavar="F", help="A file, chip:devices, a chip alone to learn how many, or 1000PFLOP/s."
        ),
    ] = "",
    tokens: Annotated[
        str, typer.Option("--tokens", help="To train on: 15T, or 15TB of text. Default: 20 a parameter.")
    ] = "",
    bytes_per_token: Annotated[float, typer.Option("--bytes-per-token", help="Of text, for --tokens 15TB.")] = 4.1,
    deadline: Annotated[str, typer.Option("--deadline", help="To be kept: 30d, 6 weeks.")] = "",
    budget: Annotated[str, typer.Option("--budget", help="To be kept: 20M USD.")] = "",
    objective: Annotated[
        str, typer.Option("--objective", help="The least of: time, cost, energy, effective (loss of it), devices.")
    ] = "",
    batch: Annotated[str, typer.Option("--batch", help="Sequences of a step.")] = "",
    sequence: Annotated[str, typer.Option("--sequence", help="Tokens of one; default: the model's context.")] = "",
    precision: Annotated[str, typer.Option("--precision", help="That may be used: bf16,fp8.")] = "bf16",
    software: Annotated[str, typer.Option("--software", help="Level of maturity: docs/performance-model.md.")] = "",
    fix: Annotated[
        list[str] | None,
        typer.Option("--fix", help="Decided: tp=8, pp=4,8, recompute=full, offload=optimizer, ... Repeatable."),
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option("--profile", help="Of `myriarch doctor --calibrate`. Repeatable.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Plans to show.")] = 5,
    emit: Annotated[
        str, typer.Option("--emit", help="Print the best plan for megatron-lm, megatron-bridge or torchtitan.")
    ] = "",
    compute_optimal: Annotated[
        bool, typer.Option("--compute-optimal", help="Find the model too: for --flops, or --fleet and --deadline.")
    ] = False,
    flops: Annotated[str, typer.Option("--flops", help="With --compute-optimal: the budget, 5e25.")] = "",
    law: Annotated[
        str, typer.Option("--law", help="With --compute-optimal: besiroglu, or one of docs/planning.md.")
    ] = "",
    unique_tokens: Annotated[str, typer.Option("--unique-tokens", help="With --law muennighoff.")] = "",
    sparsity: Annotated[float | None, typer.Option("--sparsity", help="With --law abnar.")] = None,
    granularity: Annotated[float | None, typer.Option("--granularity", help="With --law krajewski-moe.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="For programs: see `myriarch schema plan`.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh; default: what MYRIARCH_LANG says, else en.")] = "",
) -> int:
    """The best ways to split a training over a fleet: time, memory, days, energy, money, what failures leave, and why.

    Exits with 1 when the model fits nowhere, with 3 when no plan keeps the deadline or the budget.
    """
    from myriarch.cli import plan as module

    options = module.Options(
        model=model, fleet=fleet, tokens=tokens, batch=batch, sequence=sequence, deadline=deadline, budget=budget,
        objective=objective, precision=precision, software=software, fix=tuple(fix or ()),
        profiles=tuple(profile or ()), top=top, bytes_per_token=bytes_per_token,
    )  # fmt: skip
    if compute_optimal:
        from myriarch.cli import optimal, quantity

        optimal.check_options(options, emit=emit)
        chosen = optimal.Law(
            name=law or optimal.DEFAULT_LAW, sparsity=sparsity, granularity=granularity,
            unique_tokens=quantity.count(unique_tokens, option="--unique-tokens") if unique_tokens else None,
        )  # fmt: skip
        return optimal.optimal(options, flops=flops, law=chosen, json_output=json_output, lang=lang)
    module.check_alone(
        {
            "--flops": flops,
            "--law": law,
            "--unique-tokens": unique_tokens,
            "--sparsity": sparsity,
            "--granularity": granularity,
        }
    )
    return module.plan(options, emit=emit, json_output=json_output, lang=lang)


@verb
def walls(
    *,
    model: Annotated[
        str, typer.Option("--model", metavar="M", help="A model file, a name like llama-3.1-405b, or a size like 500B.")
    ],
    chip: Annotated[str, typer.Option("--chip", metavar="C", help="A chip of the catalogue: h100-sxm.")],
    first: Annotated[str, typer.Option("--from", metavar="N", help="Devices to begin with.")] = "1000",
    last: Annotated[str, typer.Option("--to", metavar="N", help="Devices to end with.")] = "100000",
    points: Annotated[int, typer.Option("--points", help="Numbers of devices between them.")] = 7,
    batch_tokens: Annotated[str, typer.Option("--batch-tokens", help="Of a step; default 16M.")] = "",
    power: Annotated[str, typer.Option("--power", help="That the site can draw: 30MW. Default: no limit.")] = "",
    pue: Annotated[float, typer.Option("--pue", help="Energy of the site over that of its machines.")] = 1.25,
    price: Annotated[float | None, typer.Option("--price", help="Of a kWh.")] = None,
    svg: Annotated[str, typer.Option("--svg", metavar="FILE", help="Write the plot here.")] = "",
    json_output: Annotated[bool, typer.Option("--json", help="For programs: see `myriarch schema walls`.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh; default: what MYRIARCH_LANG says, else en.")] = "",
) -> int:
    """How energy, reliability and parallelism bound effective compute as devices grow, with and without each remedy."""
    from myriarch.cli import walls as module

    options = module.Options(
        model=model, chip=chip, first=first, last=last, points=points, batch_tokens=batch_tokens, power=power, pue=pue,
        price=price, svg=svg,
    )  # fmt: skip
    return module.show_walls(options, json_output=json_output, lang=lang)


@verb
def match(
    jobs: Annotated[
        str, typer.Argument(metavar="JOBS", help="Jobs and what they need, like examples/broker/jobs.yaml.")
    ],
    market: Annotated[str, typer.Argument(metavar="MARKET", help="Pools and what they ask: market.yaml.")],
    *,
    method: Annotated[
        str, typer.Option("--method", help="batch: all at once, proven; arrival: each as it came, greedily.")
    ] = "batch",
    job: Annotated[str, typer.Option("--job", metavar="NAME", help="All alternatives of one job, each priced.")] = "",
    seconds: Annotated[float, typer.Option("--seconds", help="Most time for the proof.")] = 60.0,
    json_output: Annotated[bool, typer.Option("--json", help="For programs: see `myriarch schema match`.")] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh; default: what MYRIARCH_LANG says, else en.")] = "",
) -> int:
    """Which pool runs which job, when, at what price, and what every alternative would cost (算力撮合).

    Exits with 3 when some jobs got nothing.
    """
    from myriarch.cli import match as module

    return module.match(jobs, market, method=method, job=job, seconds=seconds, json_output=json_output, lang=lang)


@verb
def simulate(
    scenario: Annotated[
        str, typer.Argument(metavar="[SCENARIO]", help="A scenario or run file: YAML, JSON or TOML.")
    ] = "",
    *,
    from_live: Annotated[
        str, typer.Option("--from-live", metavar="RUN", help="Go on from a run's journal or a queue's stream.")
    ] = "",
    kill: Annotated[
        list[str] | None, typer.Option("--kill", metavar="NODE", help="With --from-live: it dies. Repeatable.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="NODE", help="With --from-live: it goes silent. Repeatable.")
    ] = None,
    at_step: Annotated[int | None, typer.Option("--at-step", help="When it does; default: now.")] = None,
    after_s: Annotated[float | None, typer.Option("--after-s", help="When it does, in seconds.")] = None,
    faults: Annotated[
        str,
        typer.Option(
            "--faults", metavar="RATE", help="With --from-live: failures of a node and day, `fleet`, a source."
        ),
    ] = "",
    repair_s: Annotated[float | None, typer.Option("--repair-s", help="Until a lost node is replaced.")] = None,
    spares: Annotated[
        list[str] | None, typer.Option("--spares", metavar="+N", help="With --from-live: more of them, +2 or POOL+2.")
    ] = None,
    as_of_step: Annotated[int | None, typer.Option("--as-of-step", help="With --from-live: look back.")] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(
            "--job", metavar="N:TIME", help="With --from-live of a queue: how long would it wait? 8:4h. Repeatable."
        ),
    ] = None,
    as_of_s: Annotated[
        float | None, typer.Option("--as-of-s", help="With --from-live of a queue: look back to this instant.")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Seeds; more than one is a sweep.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="F=A,B", help="A field and its values: policy.name=easy,fifo. Repeatable."),
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes of a sweep; default: all cores.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search the policy's parameters on past weeks, prove them on later ones.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="A sweep or search: start over.")] = False,
    json_output: Annotated[
        bool,
        typer.Option(
            "--json", help="For programs: see `myriarch schema simulate`, `sweep`, `tuning`, `what-if`, `queue`."
        ),
    ] = False,
    lang: Annotated[str, typer.Option("--lang", help="en or zh; default: what MYRIARCH_LANG says, else en.")] = "",
) -> int:
    """What happens on a fleet: which jobs run when, under which policy, with which faults; what it costs.

    With --vary or several seeds every combination is simulated, on all cores. The same command again goes on where a
    sweep was stopped. `myriarch report` shows what was found before.

    With --from-live a run's journal is replayed, also while it is trained, and virtual time goes on from there: what a
    fault, a fault rate or more spares would come to. Of a scheduler's recorded stream it tells how long those that wait
    still will, and how long a new job would.
    """
    from myriarch.cli.simulate_live import LiveOptions, check_alone, from_live_run

    live = LiveOptions(
        run=from_live, kill=tuple(kill or ()), stop=tuple(stop or ()), at_step=at_step, after_s=after_s, faults=faults,
        repair_s=repair_s, spares=tuple(spares or ()), seeds=seeds, as_of_step=as_of_step, jobs=tuple(job or ()),
        as_of_s=as_of_s,
    )  # fmt: skip
    check_alone(
        live, scenario=scenario, sweeps={"--vary": vary, "--workers": workers, "--tune": tune, "--fresh": fresh}
    )
    if from_live:
        return from_live_run(live, json_output=json_output, lang=lang)
    from myriarch.cli import simulate as module

    options = module.Options(
        scenario=scenario, seeds=seeds, vary=tuple(vary or ()), workers=workers, fresh=fresh, tune=tune
    )
    return module.simulate(options, json_output=json_output, lang=lang)


@verb
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Published runs, like published_configs.yaml.")],
    *,
    json_output: Annotated[bool, typer.Option("--json", help="For programs: see `myriarch schema validate`.")] = False,
) -> int:
    """Predict every published run of a file and print the errors by source, beside those of a single constant.

    A source is predicted with constants that were calibrated without it. Rows that cannot be predicted are listed with
    the reason.
    """
    from myriarch.cli import validate as module

    return module.validate(file, json_output=json_output)


@verb
def doctor(
    *,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time the devices instead: products, memory, links.")
    ] = False,
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="With --calibrate: the profile to write, .yaml or .json.")
    ] = "",
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="With --calibrate: time to take; default: 30.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="For programs: see `myriarch schema doctor` and `profile`.")
    ] = False,
) -> int:
    """What this machine offers to a fleet: measured in about three seconds, each line with a verdict and a remedy.

    Exits with 3 if something that `myriarch train` needs is missing. With --calibrate it times matrix products, memory,
    launches and links of the accelerators, or of the CPU where there are none, for a profile that plans take before the
    catalogue.
    """
    from myriarch.cli import doctor as module

    return module.doctor(calibrate=calibrate, output=output, seconds=seconds, json_output=json_output)


@verb
def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="fleet, model, run, profile, report, plan, walls, ...: without NAME, all of them."
        ),
    ] = "",
) -> int:
    """Print the JSON Schema of a file or message that Myriarch reads or writes; without NAME, list them."""
    from myriarch.cli import schema as module

    return module.schema(name)


@verb
def version() -> int:
    """Version of Myriarch."""
    print(f"myriarch {__version__}")
    return 0
