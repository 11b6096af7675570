"""What has to hold between the parts of a file, and between a run, its fleet and its model.

Each check tells what it finds through `tell(path, message)` and goes on, so that one reading shows everything. The
shapes of the values (`shape.py`) have been checked before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from myriarch.spec.catalogue import unknown_chip
from myriarch.spec.fleet import Chip, Fleet
from myriarch.spec.model import LatentAttention, Mixture, Model
from myriarch.spec.problems import did_you_mean, listed
from myriarch.spec.regions import unknown_region
from myriarch.spec.run import Batch, ChaosEvent, Checkpoint, Group, Recovery, Run
from myriarch.spec.shares import can_divide, nearest_batches
from myriarch.spec.site import HOURS_PER_DAY, Tariff

Tell = Callable[[str, str], None]

NODES_LIMIT: Final = 1_000_000
"""Nodes of one fleet, spares included: ten times the largest that the design is for."""
DEVICES_LIMIT: Final = 10_000_000


# --- the fleet -------------------------------------------------------------------------------------------------------


LAYERS_LIMIT: Final = 10_000
"""Eighty times what any published decoder has."""
FAILURES_LIMIT: Final = 1_440.0
"""Of a node and day: one a minute. Such a node does nothing else."""


def check_fleet(fleet: Fleet, *, catalogue: Mapping[str, Chip], tell: Tell) -> None:
    """Names that are one's own, chips that are known, links between pools that are there."""
    if not fleet.pools:
        tell("pools", "is empty; give at least one pool")
    nodes = sum(pool.nodes + pool.spares for pool in fleet.pools)
    if nodes > NODES_LIMIT:
        tell("pools", f"have {nodes} nodes; a fleet has at most {NODES_LIMIT}")
    devices = sum(pool.devices for pool in fleet.pools)
    if devices > DEVICES_LIMIT and nodes <= NODES_LIMIT:
        tell("pools", f"have {devices} devices; a fleet has at most {DEVICES_LIMIT}")
    first: dict[str, int] = {}
    for index, pool in enumerate(fleet.pools):
        if pool.name in first:
            tell(f"pools[{index}].name", f"`{pool.name}` is pools[{first[pool.name]}] already; give each its own name")
        first.setdefault(pool.name, index)
        if isinstance(pool.chip, str) and pool.chip not in catalogue:
            tell(f"pools[{index}].chip", unknown_chip(pool.chip, chips=catalogue))
        if pool.failures is not None and pool.failures.per_node_day > FAILURES_LIMIT:
            rate = f"{pool.failures.per_node_day:g} a day are more than one a minute"
            tell(f"pools[{index}].failures.per_node_day", f"{rate}; published nodes fail some 0.004 times a day")
    _check_links(fleet, tell)
    _check_sites(fleet, tell)


def _check_sites(fleet: Fleet, tell: Tell) -> None:
    names = [site.name for site in fleet.sites]
    for index, pool in enumerate(fleet.pools):
        if names and pool.site and pool.site not in names:
            near = did_you_mean(pool.site, names)
            tell(f"pools[{index}].site", f"no site is called `{pool.site}`;{near} the fleet has {listed(names)}")
    for index, site in enumerate(fleet.sites):
        path = f"sites[{index}]"
        if site.name in names[:index]:
            first = f"sites[{names.index(site.name)}]"
            tell(f"{path}.name", f"`{site.name}` is {first} already; give each its own name")
        if site.region and site.carbon_kg_per_kwh_resolved is None:
            tell(f"{path}.region", unknown_region(site.region))
        if site.tariff is not None:
            _check_tariff(site.tariff, f"{path}.tariff", tell)


def _check_tariff(tariff: Tariff, path: str, tell: Tell) -> None:
    for index, period in enumerate(tariff.periods):
        start, end = period.hours
        at = f"{path}.periods[{index}].hours"
        if start % HOURS_PER_DAY == end % HOURS_PER_DAY:
            tell(at, f"[{start}, {end}] is no part of a day; use `price_per_kwh` of the tariff for all hours")
            continue
        for other in range(index):
            both = [hour for hour in range(HOURS_PER_DAY) if period.has(hour) and tariff.periods[other].has(hour)]
            if both:
                tell(at, f"has the hour {both[0]} that periods[{other}] has already; let one have it")


def _check_links(fleet: Fleet, tell: Tell) -> None:
    pools = [pool.name for pool in fleet.pools]
    first: dict[frozenset[str], int] = {}
    for index, link in enumerate(fleet.links):
        path = f"links[{index}].between"
        for end, name in enumerate(link.between):
            if name not in pools:
                tell(f"{path}[{end}]", _no_pool(name, pools))
        ends = frozenset(link.between)
        if len(ends) == 1:
            tell(path, f"joins pool `{link.between[0]}` with itself; say that as the `link` of the pool")
        elif ends in first:
            tell(path, f"joins {listed(link.between)} as links[{first[ends]}] does; keep one")
        first.setdefault(ends, index)


def _no_pool(name: str, pools: list[str]) -> str:
    return f"no pool is called `{name}`;{did_you_mean(name, pools)} the fleet has {listed(pools)}"


# --- the model -------------------------------------------------------------------------------------------------------


def check_model(model: Model, *, tell: Tell) -> None:
    """Parts that fit together. Heads divide the width evenly, and in even parts: rotary positions turn pairs."""
    if model.layers > LAYERS_LIMIT:
        tell("layers", f"{model.layers} are more than any model has; use at most {LAYERS_LIMIT}")
    if model.latent is not None:
        _check_latent(model, model.latent, tell)
    else:
        _check_heads(model, tell)
    if model.mixture is not None:
        _check_mixture(model, model.mixture, tell)


def _check_heads(model: Model, tell: Tell) -> None:
    parts, even = (2, " even") if model.positions == "rotary" else (1, "")
    if model.head_width is not None:
        if model.head_width % parts:
            why = "is odd, and rotary positions need heads of even width"
            tell("head_width", f"{model.head_width} {why}; use {model.head_width + 1}")
    elif model.width % parts:
        tell("width", f"{model.width} is odd, and rotary positions need heads of even width; use {model.width + 1}")
    elif model.width % (parts * model.heads):
        use = _nearest_divisors(model.width // parts, model.heads)
        tell("heads", f"{model.heads} heads do not split the width, {model.width}, into equal{even} parts; use {use}")
    if model.heads % model.kv_heads_resolved:
        divisors = _nearest_divisors(model.heads, model.kv_heads_resolved)
        tell("kv_heads", f"{model.kv_heads} does not divide the {model.heads} heads; use {divisors}")


def _check_latent(model: Model, latent: LatentAttention, tell: Tell) -> None:
    for field in ("kv_heads", "head_width"):
        if getattr(model, field) is not None:
            tell(field, "has no meaning with `latent`, which says how wide heads are; remove one of them")
    if latent.rope_width % 2:
        tell("latent.rope_width", f"{latent.rope_width} is odd, and rotary positions need pairs; use an even number")
    if model.biases != "none":
        tell("biases", f"`{model.biases}` is not known with `latent`; use `none`")
    if model.query_key_norm:
        tell("query_key_norm", "is part of `latent`, whose ranks are normed; remove it")


def _check_mixture(model: Model, mixture: Mixture, tell: Tell) -> None:
    if mixture.top_k > mixture.experts:
        tell("mixture.top_k", f"{mixture.top_k} is more than the {mixture.experts} experts; use at most that")
    if mixture.dense_layers >= model.layers:
        why = f"leaves none of the {model.layers} layers to the mixture"
        tell("mixture.dense_layers", f"{mixture.dense_layers} {why}; use at most {model.layers - 1}")
    if mixture.dense_layers == 0 and model.feed_forward is not None:
        tell("feed_forward", "has no meaning where every layer is a mixture; say `mixture.expert_feed_forward`")


_LLAMA: Final[tuple[tuple[str, object, str], ...]] = (
    # field, the only value that the trainer builds, what to write
    ("latent", None, "remove it"),
    ("window", None, "remove it"),
    ("mixture", None, "remove it"),
    ("activation", "swiglu", "use `swiglu`"),
    ("positions", "rotary", "use `rotary`"),
    ("norm", "rmsnorm", "use `rmsnorm`"),
    ("norms_per_layer", 2, "use 2"),
    ("query_key_norm", False, "use false"),
    ("biases", "none", "use `none`"),
)


def check_trainable(model: Model, *, tell: Tell) -> None:
    """What the reference trainer builds: dense, Llama style, on bytes. The planner takes the others."""
    for field, only, remedy in _LLAMA:
        value = getattr(model, field)
        if value != only:
            tell(field, f"{_shown(value)}is for `myriarch plan`: the trainer builds dense Llama-style models; {remedy}")
    if model.head_width is not None and model.latent is None and model.head_width * model.heads != model.width:
        why = f"the trainer splits the width, {model.width}, among the {model.heads} heads"
        tell("head_width", f"{model.head_width} is for `myriarch plan`: {why}; remove it")
    if model.vocabulary < 256:
        tell("vocabulary", f"{model.vocabulary} is too small for data that are bytes; use at least 256")


def _shown(value: object) -> str:
    """The value, where it is a word or a number that fits into a sentence."""
    if isinstance(value, bool):
        return f"{str(value).lower()} "
    return f"`{value}` " if isinstance(value, (str, int)) else ""


def _nearest_divisors(number: int, wish: int) -> str:
    divisors = [d for d in range(1, min(number, 4096) + 1) if number % d == 0]
    nearest = sorted(sorted(divisors, key=lambda divisor: abs(divisor - wish))[:4])
    return " or ".join(str(divisor) for divisor in nearest)


# --- the run ---------------------------------------------------------------------------------------------------------


def check_run(run: Run, *, fleet: Fleet, groups: tuple[Group, ...], tell: Tell) -> None:
    """`groups`: the run's own, or those that were filled in."""
    fit = _check_groups(groups, fleet, tell)
    if fit and 0 < sum(group.mesh.devices for group in groups) <= DEVICES_LIMIT:
        _check_shares(run.batch, run.shares, groups, tell)
    _check_optimizer(run, tell)
    _check_checkpoint(run.checkpoint, fleet, tell)
    _check_recovery(run.recovery, tell)
    for index, event in enumerate(run.chaos):
        _check_chaos(event, f"chaos[{index}]", run.steps, fleet, groups, tell)


def _check_groups(groups: tuple[Group, ...], fleet: Fleet, tell: Tell) -> bool:
    """Whether every group is one of its pool's size."""
    pools = {pool.name: pool for pool in fleet.pools}
    first: dict[str, int] = {}
    used: dict[str, int] = {}
    fit = True
    for index, group in enumerate(groups):
        path = f"groups[{index}]"
        if group.name in first:
            tell(f"{path}.name", f"`{group.name}` is groups[{first[group.name]}] already; give each its own name")
        first.setdefault(group.name, index)
        if group.pool not in pools:
            tell(f"{path}.pool", _no_pool(group.pool, list(pools)))
            fit = False
            continue
        pool = pools[group.pool]
        used[pool.name] = used.get(pool.name, 0) + group.nodes
        if used[pool.name] > pool.nodes:
            free = max(pool.nodes - used[pool.name] + group.nodes, 0)
            tell(f"{path}.nodes", f"{group.nodes} is more than the {free} of {pool.nodes} nodes left in `{pool.name}`")
            fit = False
        devices = group.nodes * pool.devices_per_node
        if group.mesh.devices != devices:
            mesh = f"dp_replicate {group.mesh.dp_replicate} x dp_shard {group.mesh.dp_shard} = {group.mesh.devices}"
            have = f"{group.nodes} nodes x {pool.devices_per_node} = {devices} devices"
            tell(f"{path}.mesh", f"{mesh} is not the {have}; make the product {devices}")
            fit = False
    return fit


def _check_shares(batch: Batch, shares: str | dict[str, int], groups: tuple[Group, ...], tell: Tell) -> None:
    worlds = {group.name: group.mesh.devices for group in groups}
    if isinstance(shares, str):
        if not can_divide(batch.sequences, list(worlds.values())):
            use = " or ".join(str(near) for near in nearest_batches(batch.sequences, list(worlds.values())))
            sizes = ", ".join(f"{name} {world}" for name, world in list(worlds.items())[:8])
            why = "every worker of a group takes equally many sequences, at least one"
            tell("batch.sequences", f"{batch.sequences} cannot be divided among workers ({sizes}): {why}; use {use}")
        return
    for name, share in shares.items():
        if name not in worlds:
            tell(
                f"shares.{name}", f"no group is called `{name}`;{did_you_mean(name, worlds)} there are {listed(worlds)}"
            )
        elif share % worlds[name]:
            lower = share - share % worlds[name]
            use = f"{lower} or {lower + worlds[name]}" if lower else str(worlds[name])
            tell(f"shares.{name}", f"{share} is not a multiple of the group's {worlds[name]} workers; use {use}")
    missing = [name for name in worlds if name not in shares]
    if missing:
        tell("shares", f"group `{missing[0]}` has no share; give it a multiple of {worlds[missing[0]]}")
    total = sum(shares.values())
    if total != batch.sequences:
        tell("shares", f"sum to {total}, and batch.sequences is {batch.sequences}; make them equal")


def _check_optimizer(run: Run, tell: Tell) -> None:
    low, high = run.optimizer.minimum_learning_rate, run.optimizer.learning_rate
    if low > high:
        tell("optimizer.minimum_learning_rate", f"{low:g} is above learning_rate, {high:g}; use at most that")


def _check_checkpoint(checkpoint: Checkpoint, fleet: Fleet, tell: Tell) -> None:
    memory, disk = checkpoint.memory_every_steps, checkpoint.disk_every_steps
    if memory is not None and disk is not None and disk % memory:
        lower = disk - disk % memory
        use = f"{lower} or {lower + memory}" if lower else str(memory)
        tell("checkpoint.disk_every_steps", f"{disk} is not a multiple of memory_every_steps, {memory}; use {use}")
    nodes = sum(pool.nodes + pool.spares for pool in fleet.pools)
    if 0 < nodes <= checkpoint.copies:
        why = f"no two copies of a shard lie on one node, and the fleet has {nodes}"
        tell("checkpoint.copies", f"{checkpoint.copies} is too many: {why}; use {nodes - 1}")


def _check_recovery(recovery: Recovery, tell: Tell) -> None:
    interval, timeout = recovery.heartbeat_interval_s, recovery.heartbeat_timeout_s
    if timeout < 2 * interval:
        why = f"less than two heartbeat intervals of {interval:g} s, so that one late heartbeat would look like a death"
        tell("recovery.heartbeat_timeout_s", f"{timeout:g} s is {why}; use at least {2 * interval:g}")


def _check_chaos(event: ChaosEvent, path: str, steps: int, fleet: Fleet, groups: tuple[Group, ...], tell: Tell) -> None:
    if event.at_step >= steps:
        tell(f"{path}.at_step", f"{event.at_step} is not before the run's last step, {steps}; use at most {steps - 1}")
    if event.action == "slow" and event.factor is None:
        tell(path, "`factor` is missing; say which share of its speed is left, like `factor: 0.5`")
    if event.action != "slow" and event.factor is not None:
        tell(f"{path}.factor", f"has no meaning with `{event.action}`; remove it")
    if event.target == "controller":
        if event.action != "kill":
            tell(f"{path}.action", f"`{event.action}` is not done to the controller; use `kill`")
        return
    wrong = wrong_target(event.target, fleet=fleet, groups=groups)
    if wrong:
        tell(f"{path}.target", wrong)


def wrong_target(target: str, *, fleet: Fleet, groups: tuple[Group, ...]) -> str:
    """Why `target` is neither a node (`fast-1`), a worker (`fast/1`) nor `controller`; nothing when it is one."""
    if target == "controller":
        return ""
    forms = "a target is a node (`<pool>-<index>`), a worker (`<group>/<rank>`) or `controller`"
    head, slash, rank = target.partition("/")
    if slash:
        worlds = {group.name: group.mesh.devices for group in groups}
        if head not in worlds:
            return f"no group is called `{head}`;{did_you_mean(head, worlds)} {forms}"
        return (
            "" if _is_below(rank, worlds[head]) else f"group `{head}` has ranks 0 to {worlds[head] - 1}, not `{rank}`"
        )
    head, _, index = target.rpartition("-")
    nodes = {pool.name: pool.nodes + pool.spares for pool in fleet.pools}
    if head not in nodes:
        near = did_you_mean(target, fleet.node_names) or did_you_mean(head or target, nodes)
        return f"`{target}` is not known;{near} {forms}"
    return "" if _is_below(index, nodes[head]) else f"pool `{head}` has nodes {head}-0 to {head}-{nodes[head] - 1}"


def _is_below(text: str, limit: int) -> bool:
    """Whether the text is a plain index (no sign, no leading zero) below the limit."""
    return text.isascii() and text.isdigit() and str(int(text[:9])) == text and int(text) < limit
