"""Scenarios that a person can read: `scenarios/*.txt`, played to `Control` one command at a time.

A file is a list of blocks: commands, a line `----`, and the actions that they must cause; an empty line ends the block.
`#` begins a comment. The interpreter plays agents that do what they are told, so that a command need not repeat it:

    start fast=2+1 slow=2 steps=20 ...   a run: pools as nodes+spares, further settings of the run file
    join all | join fast-2 boot=b        agents join, all or one, the latter perhaps as another boot
    join fast-2 cold=yes | warmed fast-2 one whose zygote still imports torch, until it is warm
    ready all | ready fast/0 digest=0f   workers report readiness for the incarnation that they were told of, those of
                                         groups that start beside it by name; step=8: of another step than was expected
    step 7                               every group completes steps up to 7
    snapshot 8 | seal 8 fast/0 | copy 8  a snapshot: all of it, one shard sealed, all copies made
    copy 8 fast/0 fast/1                 all copies of these shards are made
    skip 8 fast/0 why                    a worker finds no slot, or a copy of its shard cannot be made
    unreported 8                         a snapshot is made, and no report of it arrives
    held 8 | held 20 finished            all workers stop after a step
    exit fast/1 signal | collective_error | user_error
    vanish fast/1                        a worker dies, and nobody says so
    lose fast-1 | disconnect fast-1 | rejoin fast-1 | silent fast-1
    stall fast/1                         the detector's finding
    fetched | fetch-failed fast-2 fast/1 fast-0
    drained | drain-failed fast-0        the drain that was asked for goes well, or not
    stop                                 somebody wants the run to end
    wait 0.5                             time passes
    view                                 print where the run is

`REWRITE=1 pytest tests/control/test_scenarios.py` writes what comes out into the files. Read the difference.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from myriarch.control import Control
from myriarch.event.actions import (
    AnyAction,
    CommitSnapshot,
    Decide,
    DrainShards,
    DropSnapshot,
    EndRun,
    FenceNode,
    FinishDrain,
    FromDisk,
    FromMemory,
    HoldWorkers,
    Keep,
    LaunchWorkers,
    LogMembership,
    RejoinWorkers,
    StartSteps,
    StopWorkers,
    WorkerPlan,
)
from myriarch.event.events import (
    AnyEvent,
    DrainFailed,
    FetchFailed,
    HeldShard,
    NodeDisconnected,
    NodeExited,
    NodeJoined,
    NodeSilent,
    NodeWarmed,
    RunningWorker,
    RunStarted,
    ShardDrained,
    ShardReplicated,
    ShardSealed,
    SnapshotDrained,
    SnapshotSkipped,
    StepCompleted,
    StopRequested,
    Tick,
    WorkerExited,
    WorkerForked,
    WorkerHeld,
    WorkerReady,
    WorkerStalled,
)
from myriarch.event.ids import GroupId, NodeId, PoolId, Rank, Step
from myriarch.event.layout import ShardKey
from myriarch.spec.fleet import Chip, Fleet, Pool
from myriarch.spec.model import Model
from myriarch.spec.run import Batch, Checkpoint, Group, Mesh, Recovery, ResolvedRun, Run

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))
REWRITE = os.environ.get("REWRITE") == "1"
SHARD_BYTES = 1000


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    player = Player()
    written: list[str] = []
    differences: list[str] = []
    for comment, commands, expected in blocks(path.read_text()):
        seen = [line for command in commands for line in player.play(command)]
        written += [*comment, *commands, "----", *seen, ""]
        if seen != expected:
            differences += [f"after {commands}:", *(f"  expected {line}" for line in expected)]
            differences += [f"  seen     {line}" for line in seen]
    player.control.check()
    player.check_replay()
    if REWRITE:
        path.write_text("\n".join(written))
    assert not differences or REWRITE, "\n" + "\n".join(differences)


def blocks(text: str) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """`(comments, commands, expected lines)` of each block."""
    for part in text.strip().split("\n\n"):
        head, _, tail = part.partition("----")
        lines = head.strip().splitlines()
        comments = [line for line in lines if line.startswith("#")]
        yield comments, [line for line in lines if not line.startswith("#")], tail.strip().splitlines()


class Player:
    """Plays agents and workers that do what they are told, when the scenario says so."""

    def __init__(self) -> None:
        self.control = Control()
        self.now_s = 1000.0
        self.resolved = resolved_run({})
        self.plans: dict[ShardKey, tuple[NodeId, WorkerPlan]] = {}
        self.beside: dict[ShardKey, tuple[NodeId, WorkerPlan]] = {}
        """Plans of groups that start beside the others."""
        self.alive: dict[ShardKey, NodeId] = {}
        self.boots: dict[str, str] = {}
        self.memory: dict[str, dict[tuple[Any, ...], HeldShard]] = {}
        self.drains: list[DrainShards] = []
        self.finish: FinishDrain | None = None
        self.steps = self.kept = 0
        self.log: list[tuple[AnyEvent, float, tuple[AnyAction, ...]]] = []

    # --- commands ---------------------------------------------------------------------------------------------------

    def play(self, command: str) -> list[str]:
        verb, *words = shlex.split(command)
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        handler = getattr(self, "do_" + verb.replace("-", "_"))
        lines: list[str] = list(handler(*plain, **options))
        self.control.check()
        return lines

    def take(self, event: AnyEvent) -> Iterator[str]:
        actions = self.control.step(event, now_s=self.now_s)
        self.log.append((event, self.now_s, actions))
        for action in actions:
            self.obey(action)
            line = told(action)
            if line:
                yield line

    def check_replay(self) -> None:
        """A fresh machine that gets the same events says the same and is the same."""
        again = Control()
        for event, now_s, actions in self.log:
            assert again.step(event, now_s=now_s) == actions
        assert again.digest() == self.control.digest()

    def do_start(self, **options: str) -> Iterator[str]:
        resume = options.pop("resume", None)
        self.resolved = resolved_run(options)
        path = f"runs/scenario/checkpoints/step-{int(resume):08d}" if resume else ""
        yield from self.take(
            RunStarted(
                run_id="scenario",
                resolved=self.resolved,
                resume_step=Step(int(resume)) if resume else None,
                resume_path=path,
            )
        )

    def do_join(self, who: str, boot: str = "a", cold: str = "") -> Iterator[str]:
        names = [
            f"{pool.name}-{index}" for pool in self.resolved.fleet.pools for index in range(pool.nodes + pool.spares)
        ]
        for name in names if who == "all" else [who]:
            self.boots[name] = boot
            self.memory[name] = {}
            yield from self.take(msgspec.structs.replace(self.joined(name), warm=not cold))

    def do_warmed(self, name: str, boot: str = "") -> Iterator[str]:
        yield from self.take(NodeWarmed(node=NodeId(name), boot=boot or self.boots[name]))

    def do_rejoin(self, *names: str) -> Iterator[str]:
        for name in names:
            yield from self.take(self.joined(name))

    def joined(self, name: str) -> NodeJoined:
        pool, _, index = name.rpartition("-")
        return NodeJoined(
            node=NodeId(name),
            pool=PoolId(pool),
            boot=self.boots[name],
            address=f"127.0.{len(pool)}.{index}",
            port=7000,
            devices=self.resolved.fleet.pool(pool).devices_per_node,
            fault_domain=name,
            workers=tuple(
                RunningWorker(group=key[0], rank=key[1], incarnation=self.plans[key][1].incarnation, pid=1)
                for key, node in self.alive.items()
                if node == name
            ),
            shards=tuple(self.memory[name].values()),
            warm=True,
        )

    def do_ready(self, *who: str, digest: str = "", step: str = "") -> Iterator[str]:
        for key, (node, plan) in [*self.plans.items(), *self.beside.items()]:
            if f"{key[0]}/{key[1]}" not in who and (who != ("all",) or key not in self.plans):
                continue
            if key not in self.alive:
                self.alive[key] = node
                yield from self.take(
                    WorkerForked(node=node, group=key[0], rank=key[1], incarnation=plan.incarnation, pid=1)
                )
            restored = getattr(plan.restore, "step", self.kept if isinstance(plan.restore, Keep) else 0)
            at = Step(int(step) if step else restored)
            usual = "" if isinstance(plan.restore, Keep) else f"{1000 + at:x}" if key[1] == 0 else "0"
            yield from self.take(
                WorkerReady(
                    node=node,
                    group=key[0],
                    rank=key[1],
                    incarnation=plan.incarnation,
                    step=at,
                    bridge_host="127.0.0.1",
                    bridge_port=9000,
                    state_bytes=SHARD_BYTES,
                    digest=digest or usual,
                    sequence_s={"fast": 0.01, "slow": 0.03}.get(key[0], 0.02) / plan.world_size,
                    snapshot_s=0.01,
                )
            )

    def do_step(self, step: str) -> Iterator[str]:
        for number in range(self.steps + 1, int(step) + 1):
            self.steps = number
            for group in dict.fromkeys(key[0] for key in self.plans):
                yield from self.take(
                    StepCompleted(
                        group=group,
                        incarnation=self.incarnation(),
                        step=Step(number),
                        loss_sum=64.0,
                        tokens=32,
                        group_tokens=16,
                        duration_s=0.1,
                        compute_s=0.05,
                    )
                )

    def incarnation(self) -> Any:
        return max(plan.incarnation for _, plan in self.plans.values())

    def do_snapshot(self, step: str) -> Iterator[str]:
        for key in self.plans:
            yield from self.do_seal(step, f"{key[0]}/{key[1]}")
        yield from self.do_copy(step)

    def do_unreported(self, step: str) -> Iterator[str]:
        for key, (node, plan) in self.plans.items():
            for place, role in ((node, "own"), *((target, "copy") for target in plan.copy_nodes)):
                self.memory[place][key, role, Step(int(step))] = self.shard(plan, int(step), role)
        yield from ()

    def do_seal(self, step: str, who: str, digest: str = "") -> Iterator[str]:
        key = key_of(who)
        node, plan = self.plans[key]
        shard = self.shard(plan, int(step), "own")
        self.memory[node][key, "own", shard.step] = shard
        value = digest or (f"{1000 + int(step):x}" if key[1] == 0 else "0")
        yield from self.take(ShardSealed(node=node, shard=shard, digest=value, stall_s=0.01))

    def do_copy(self, step: str, *who: str) -> Iterator[str]:
        for key, (_, plan) in self.plans.items():
            for target in plan.copy_nodes:
                if target in self.boots and (not who or f"{key[0]}/{key[1]}" in who):
                    shard = self.shard(plan, int(step), "copy")
                    self.memory[target][key, "copy", shard.step] = shard
                    yield from self.take(ShardReplicated(node=target, shard=shard))

    def shard(self, plan: WorkerPlan, step: int, role: Any) -> HeldShard:
        return HeldShard(
            group=plan.group,
            rank=plan.rank,
            world_size=plan.world_size,
            step=Step(step),
            incarnation=plan.incarnation,
            role=role,
            size_bytes=SHARD_BYTES,
            root=f"{plan.group}{plan.rank}{step}",
        )

    def do_skip(self, step: str, who: str, why: str) -> Iterator[str]:
        key = key_of(who)
        yield from self.take(
            SnapshotSkipped(
                node=self.plans[key][0],
                group=key[0],
                rank=key[1],
                incarnation=self.incarnation(),
                step=Step(int(step)),
                why=why,
            )
        )

    def do_held(self, step: str, finished: str = "") -> Iterator[str]:
        for key, (node, plan) in list(self.plans.items()):
            yield from self.take(
                WorkerHeld(
                    node=node,
                    group=key[0],
                    rank=key[1],
                    incarnation=plan.incarnation,
                    step=Step(int(step)),
                    finished=bool(finished),
                )
            )

    def do_exit(self, who: str, cause: Any, incarnation: str = "") -> Iterator[str]:
        key = key_of(who)
        node, plan = self.plans.get(key) or self.beside[key]
        self.alive.pop(key, None)
        detail = {"user_error": "ValueError: wrong", "collective_error": "connection closed by peer"}.get(cause, "")
        yield from self.take(
            WorkerExited(
                node=node,
                group=key[0],
                rank=key[1],
                incarnation=plan.incarnation if not incarnation else int(incarnation),  # type: ignore[arg-type]
                cause=cause,
                code=9 if cause == "signal" else 1,
                detail=detail,
            )
        )

    def do_vanish(self, who: str) -> Iterator[str]:
        del self.alive[key_of(who)]
        yield from ()

    def do_lose(self, *names: str) -> Iterator[str]:
        for name in names:
            boot = self.boots.pop(name, "")  # it may never have joined: the engine knows no boot of it
            self.memory[name] = {}
            self.alive = {key: node for key, node in self.alive.items() if node != name}
            yield from self.take(NodeExited(node=NodeId(name), boot=boot, detail="killed by SIGKILL"))

    def do_disconnect(self, *names: str) -> Iterator[str]:
        for name in names:
            yield from self.take(NodeDisconnected(node=NodeId(name), boot=self.boots[name]))

    def do_silent(self, name: str) -> Iterator[str]:
        yield from self.take(NodeSilent(node=NodeId(name), boot=self.boots[name], silent_s=5.0))

    def do_stall(self, who: str) -> Iterator[str]:
        key = key_of(who)
        node, plan = self.plans[key]
        yield from self.take(
            WorkerStalled(
                node=node,
                group=key[0],
                rank=key[1],
                incarnation=plan.incarnation,
                step=Step(self.steps),
                phase="compute",
                stalled_s=20.0,
                stopped=False,
            )
        )

    def do_fetch_failed(self, node: str, who: str, source: str) -> Iterator[str]:
        key = key_of(who)
        restore = self.plans[key][1].restore
        assert isinstance(restore, FromMemory)
        yield from self.take(
            FetchFailed(
                node=NodeId(node),
                incarnation=self.incarnation(),
                group=key[0],
                rank=key[1],
                step=restore.step,
                source=NodeId(source),
                why="no answer",
            )
        )

    def do_drained(self) -> Iterator[str]:
        drains, self.drains = self.drains, []
        for drain in drains:
            yield from self.take(
                ShardDrained(
                    node=drain.node,
                    step=drain.step,
                    incarnation=drain.incarnation,
                    shards=drain.shards,
                    size_bytes=SHARD_BYTES,
                    duration_s=0.1,
                )
            )
        finish, self.finish = self.finish, None
        if finish is not None:
            yield from self.take(
                SnapshotDrained(step=finish.step, incarnation=finish.incarnation, path=finish.final_path)
            )

    def do_drain_failed(self, node: str) -> Iterator[str]:
        drain = next(drain for drain in self.drains if drain.node == node)
        self.drains = []
        yield from self.take(
            DrainFailed(node=drain.node, step=drain.step, incarnation=drain.incarnation, why="no space left on device")
        )

    def do_stop(self) -> Iterator[str]:
        yield from self.take(StopRequested(why="Ctrl-C"))

    def do_wait(self, seconds: str) -> Iterator[str]:
        until_s = self.now_s + float(seconds)
        while (due_s := self.control.deadline_s) is not None and due_s <= until_s:
            self.now_s = max(self.now_s, due_s)
            yield from self.take(Tick())
        self.now_s = until_s

    def do_view(self) -> Iterator[str]:
        view = self.control.view()
        yield f"{view.phase} at step {view.step} of {view.steps}, incarnation {view.incarnation}"
        yield f"committed {view.committed_step}, durable {view.durable_step}, restarts {view.restarts}"
        for group in view.groups:
            yield f"{group.group}: {' '.join(group.nodes) or 'missing'}, share {group.share}"
        yield "nodes: " + ", ".join(f"{node.node} {node.role}" for node in view.nodes)

    # --- obedience --------------------------------------------------------------------------------------------------

    def obey(self, action: AnyAction) -> None:
        """What agents do at once, and what the interpreter must remember to let them answer later."""
        match action:
            case Decide(to_step=int(step)):
                self.plans = {}
                self.steps = self.kept = step
            case LaunchWorkers():
                target = self.beside if "starts beside" in action.reason.text else self.plans
                for plan in action.workers:
                    target[plan.group, plan.rank] = (action.node, plan)
                    self.alive.pop((plan.group, plan.rank), None)
            case RejoinWorkers():
                for plan in action.workers:
                    self.plans[plan.group, plan.rank] = (action.node, plan)
                    self.beside.pop((plan.group, plan.rank), None)
            case CommitSnapshot():
                for node in action.nodes:
                    held = self.memory.get(node, {})
                    self.memory[node] = {
                        key: msgspec.structs.replace(shard, committed=True)
                        for key, shard in held.items()
                        if shard.step == action.step
                    }
            case DrainShards():
                self.drains.append(action)
            case FinishDrain():
                self.finish = action
            case _:
                pass


def key_of(who: str) -> ShardKey:
    group, _, rank = who.partition("/")
    return GroupId(group), Rank(int(rank))


def resolved_run(options: dict[str, str]) -> ResolvedRun:
    """A run from a `start` command's words."""
    pools, groups = [], []
    devices = int(options.get("devices", "1"))
    replicate = int(options.get("dp_replicate", "1"))
    for name in ("fast", "slow", "far"):
        if name in options:
            nodes, _, spares = options[name].partition("+")
            count = int(nodes)
            pools.append(
                Pool(name=name, chip=Chip(id="c"), nodes=count, spares=int(spares or 0), devices_per_node=devices)
            )
            mesh = Mesh(dp_replicate=replicate, dp_shard=count * devices // replicate)
            groups.append(Group(name=name, pool=name, nodes=count, mesh=mesh))
    run = Run(
        name="scenario",
        fleet="fleet.yaml",
        model="model.yaml",
        steps=int(options.get("steps", "20")),
        batch=Batch(sequences=int(options.get("batch", "8"))),
        groups=tuple(groups),
        checkpoint=Checkpoint(
            memory_every_steps=int(options["memory_every"]) if "memory_every" in options else 4,
            disk_every_steps=int(options["disk_every"]) if "disk_every" in options else None,
            copies=int(options.get("copies", "1")),
        ),
        recovery=Recovery(
            healthy_groups="go_on" if options.get("healthy") == "go_on" else "wait",
            missing_group="degrade" if options.get("policy") == "degrade" else "wait",
            wait_limit_s=float(options.get("wait_limit", "30")),
        ),
    )
    model = Model(name="m", layers=1, width=32, heads=1, context_tokens=8)
    return ResolvedRun(run=run, fleet=Fleet(name="f", pools=tuple(pools)), model=model)


def told(action: AnyAction) -> str:
    """One line for each action; membership is left out."""
    match action:
        case Decide():
            steps = f" from {action.from_step} to {action.to_step}" if action.to_step is not None else ""
            number = f"#{action.incident}, incarnation {action.incarnation}"
            return f"decide {action.choice} {number}{steps}: {action.reason.text}"
        case StopWorkers():
            return f"{action.node}: stop {' '.join(f'{group}/{rank}' for group, rank in action.workers)}"
        case LaunchWorkers():
            return f"{action.node}: launch {', '.join(plan_told(plan) for plan in action.workers)}"
        case RejoinWorkers():
            return f"{action.node}: rejoin {', '.join(plan_told(plan) for plan in action.workers)}"
        case StartSteps():
            shares = ", ".join(f"{share.group} {share.count}" for share in action.shares)
            every = f"every {action.memory_every_steps} and {action.disk_every_steps}"
            return f"start from {action.start_step}: {shares}; snapshots {every}"
        case HoldWorkers():
            return f"hold: {action.reason.text}"
        case CommitSnapshot():
            return f"commit {action.step} on {' '.join(action.nodes)}"
        case DropSnapshot():
            return f"drop {action.step} on {' '.join(action.nodes) or 'nobody'}: {action.reason.text}"
        case DrainShards():
            return f"{action.node}: drain {action.step} {' '.join(f'{group}/{rank}' for group, rank in action.shards)}"
        case FinishDrain():
            delete = f", delete {' '.join(path.rpartition('/')[2] for path in action.delete_paths)}"
            return f"{action.node}: finish drain {action.step}{delete if action.delete_paths else ''}"
        case FenceNode():
            return f"{action.node}: fence boot {action.boot}"
        case EndRun():
            detail = f" ({' / '.join(action.detail.splitlines())})" if action.detail else ""
            return f"end {action.outcome} at step {action.step}, checkpoint {action.checkpoint or 'none'}{detail}"
        case LogMembership():
            return ""
        case _:
            return f"warn: {action.reason.text}"


def plan_told(plan: WorkerPlan) -> str:
    """A worker and where its state comes from."""
    who = f"{plan.group}/{plan.rank}"
    match plan.restore:
        case FromMemory():
            sources = " ".join(f"{one.shard.group}/{one.shard.rank}@{one.node}" for one in plan.restore.shards)
            return f"{who} from step {plan.restore.step} {sources}{'' if plan.restore.same_layout else ' resharded'}"
        case Keep():
            return f"{who} keeps its state"
        case FromDisk():
            return f"{who} from {plan.restore.path.rpartition('/')[2]}"
        case _:
            return f"{who} fresh"
