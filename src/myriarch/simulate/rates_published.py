"""Fault models of published sources: `data/failure_rates.yaml`, each with what its causes do to a node.

The tables count interruptions and name causes; what follows from a cause is said here. Hardware takes its node away for
a repair, software only its processes. Silent corruption is in the tables as the interruption that it ended in; how long
values had been wrong by then nobody published, so that it counts as noticed at once unless `noticed_s` says otherwise.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import yaml

from myriarch.cost.failures import LARGE_DEVICES
from myriarch.errors import SpecError
from myriarch.simulate.breakdowns import Course
from myriarch.simulate.rates import (
    AT_ONCE,
    ENVIRONMENT,
    GROWS_FROM_DEVICES,
    HARDWARE,
    NETWORK,
    PEOPLE,
    REBOOT,
    SLOW,
    SLOW_FACTOR,
    SWITCH,
    Cause,
    Duration,
    FaultRates,
)

DEVICES_PER_NODE: Final = 8
"""Of every node that these sources count."""
HOURS_A_DAY: Final = 24.0

PROCESSES: Final = frozenset({
    "Software Bug", "NCCL Watchdog Timeouts", "Dependency", "Unknown", "unknown",
    "ConnectionError", "S3StorageError", "NCCLTimeoutError", "NCCLRemoteError",
})  # fmt: skip
"""Causes after which the node is as good as before."""
WAYS: Final[Mapping[str, tuple[Course, Duration]]] = {
    "Network Switch/Cable": ("repair", NETWORK),
    "NetworkError": ("repair", NETWORK),
    "Host Maintenance": ("repair", PEOPLE),
    "System Cooling": ("repair", ENVIRONMENT),
    "Kernel Fault": ("repair", REBOOT),
    "System Reboot": ("repair", REBOOT),
    "Silent Data Corruption": ("corrupt", AT_ONCE),
    "Numerics/Silent Data Corruption": ("corrupt", AT_ONCE),
    "performance degradation": ("slow", SLOW),
}
"""Causes that are neither: all others are hardware."""

PLANNED_LASTS: Final = PEOPLE
PLANNED_ANNOUNCED_S: Final = 3600.0
"""An hour before: a judgement. Llama 3's 47 planned ones were firmware upgrades and changes by operators."""


def published(name: str, *, noticed_s: float = 0.0) -> FaultRates:
    """A source's model, with rack switches (Alibaba HPN) added. `noticed_s`: mean time until corruption is noticed.

    Raises SpecError for a name that is none of `SOURCES`.
    """
    if name not in SOURCES:
        raise SpecError(f"`{name}` is no published source of failure rates", hint=f"sources: {', '.join(SOURCES)}")
    model = SOURCES[name]()
    if noticed_s == 0.0:
        return model
    late = Duration(mean_s=noticed_s)
    causes = tuple(msgspec.structs.replace(one, lasts=late) if one.course == "corrupt" else one for one in model.causes)
    return msgspec.structs.replace(model, causes=causes)


def lemon_times(*, share: float, before: float, after: float) -> float:
    """How many times as often a lemon fails, if jobs fail with probability `before` with and `after` without them.

    A job's rate is -ln(1 - p); the lemons' part of it is f, and share * times / (share * times + 1 - share) = f.
    """
    part = 1.0 - math.log1p(-after) / math.log1p(-before)
    return part / (1.0 - part) * (1.0 - share) / share


@functools.cache
def _file() -> dict[str, dict[str, Any]]:
    text = importlib.resources.files("myriarch.simulate").joinpath("data", "failure_rates.yaml").read_text("utf-8")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {source["id"]: source for source in yaml.load(text, loader)["sources"]}


def _counted(source: Mapping[str, Any], *, node_days: float, only: str = "") -> tuple[Cause, ...]:
    """Causes of a table of counts; `only` those of a category."""
    rows = [row for row in source["rows"] if "count" in row and (not only or row["category"] == only)]
    return tuple(_cause(row["cause"], row["count"] / node_days) for row in rows)


def _cause(name: str, per_place_day: float) -> Cause:
    if name in PROCESSES:
        return Cause(name=name, per_place_day=per_place_day, course="in_place")
    course, lasts = WAYS.get(name, ("repair", HARDWARE))
    factor = SLOW_FACTOR if course == "slow" else 1.0
    return Cause(name=name, per_place_day=per_place_day, course=course, lasts=lasts, factor=factor)


def _title(source: Mapping[str, Any]) -> str:
    return f"{source['title']} ({source['url']})" if source.get("url") else str(source["title"])


def _llama3() -> FaultRates:
    source = _file()["llama3_405b"]
    node_days = source["scale"]["nodes"] * source["duration_days"]
    planned = Cause(
        name="planned maintenance",
        per_place_day=source["totals"]["planned"] / node_days,
        course="maintenance",
        lasts=PLANNED_LASTS,
        announced_s=PLANNED_ANNOUNCED_S,
    )
    return FaultRates(
        name="llama3_405b",
        causes=(*_counted(source, node_days=node_days), planned, SWITCH),
        grows_from_devices=GROWS_FROM_DEVICES,
        source=_title(source),
    )


def _ft_hsdp() -> FaultRates:
    source = _file()["meta_ft_hsdp"]
    total = sum(row["count"] for row in source["rows"])
    node_days = total / (source["totals"]["rate_per_1000_server_days"] / 1000.0)
    return FaultRates(
        name="meta_ft_hsdp",
        causes=(*_counted(source, node_days=node_days), SWITCH),
        grows_from_devices=LARGE_DEVICES,
        source=_title(source),
    )


def _rsc(cluster: int) -> FaultRates:
    """Node failures by the root causes of its lemons; RSC projects to 131,072 devices without growth."""
    source = _file()["meta_rsc"]
    scale, totals = source["scale"]["clusters"], source["totals"]
    per_node_day = scale[cluster]["rate_per_1000_node_days"] / 1000.0
    roots: dict[str, float] = source["lemon_root_cause"]
    whole = sum(roots.values())
    share = totals["lemon_nodes"] * DEVICES_PER_NODE / sum(each["cards"] for each in scale)
    times = lemon_times(
        share=share, before=totals["large_job_512_failure_rate_before"], after=totals["after_lemon_detection"]
    )
    return FaultRates(
        name=f"meta_rsc_{cluster + 1}",
        causes=(*(_cause(name, per_node_day * part / whole) for name, part in roots.items()), SWITCH),
        lemon_share=share,
        lemon_times=times,
        source=_title(source),
    )


ACME_DEVICES: Final = 2288 + 2416
"""Seren and Kalos."""


def _acme() -> FaultRates:
    source = _file()["acme"]
    node_days = ACME_DEVICES / DEVICES_PER_NODE * source["duration_days"]
    return FaultRates(
        name="acme",
        causes=(*_counted(source, node_days=node_days, only="infrastructure"), SWITCH),
        source=_title(source),
    )


def _b200() -> FaultRates:
    source = _file()["b200_504"]
    node_days = source["scale"]["nodes"] * source["duration_days"]
    unknown = _cause("unknown", source["totals"]["unknown"] / node_days)
    return FaultRates(
        name="b200_504", causes=(*_counted(source, node_days=node_days), unknown, SWITCH), source=_title(source)
    )


def _blue_waters() -> FaultRates:
    rows = {row["source"]: row for row in _file()["hpc_classics"]["rows"]}
    per_day = HOURS_A_DAY / rows["Blue Waters"]["mnbf_gpu_node_h"]
    return FaultRates(
        name="blue_waters",
        causes=(Cause(name="GPU node", per_place_day=per_day, course="repair", lasts=HARDWARE), SWITCH),
        source="mean time between failures of a GPU node of Blue Waters, 63,598 h",
    )


SOURCES: Final[Mapping[str, Callable[[], FaultRates]]] = {
    "llama3_405b": _llama3,
    "meta_ft_hsdp": _ft_hsdp,
    "meta_rsc_1": lambda: _rsc(0),
    "meta_rsc_2": lambda: _rsc(1),
    "acme": _acme,
    "b200_504": _b200,
    "blue_waters": _blue_waters,
}
"""Names that `published` takes. Sources of raw error events or of failed user jobs are no rates of nodes."""
