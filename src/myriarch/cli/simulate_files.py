"""A scenario file to a scenario with everything that it names read, so that nothing but traces is left to open."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import msgspec

from myriarch.cli.files import load_run, read_document_text
from myriarch.errors import SpecError
from myriarch.simulate.scenario import Scenario, Workload
from myriarch.simulate.scenario_check import check_scenario
from myriarch.simulate.workload.reading import looks_like_sia
from myriarch.spec.base import NAME_LENGTH_LIMIT
from myriarch.spec.catalogue import catalogue
from myriarch.spec.consistency import check_fleet
from myriarch.spec.document import Source, read_document
from myriarch.spec.fleet import Fleet
from myriarch.spec.parse import FORMATS, parse_located
from myriarch.spec.problems import collected, did_you_mean
from myriarch.spec.resolve import with_chips
from myriarch.spec.run import ResolvedRun
from myriarch.spec.shorthand import fleet_of, is_shorthand

RUN_KEYS: Final = ("steps", "batch")
"""What every run file has and a scenario never."""
SIMULATED: Final = "-simulated"
"""Ends the name of what is kept of a run file's run, so that it never stands among the launches of the run itself."""


def load_scenario(path: Path) -> Scenario:
    """Read a scenario, or a run file as the scenario that it is. Raises SpecError with all that is wrong."""
    text = read_document_text(path)
    if _is_run(text, path):
        run = load_run(path)
        name = run.run.name[: NAME_LENGTH_LIMIT - len(SIMULATED)].rstrip("-") + SIMULATED
        return Scenario(name=name, run=run, seed=run.run.seed, output=run.run.output)
    parsed = parse_located(text, kind=Scenario, format=FORMATS[path.suffix.lower()], source=str(path))
    scenario, where = parsed.spec, parsed.source
    resolved = msgspec.structs.replace(
        scenario,
        fleet=_fleet(scenario.fleet, path, where),
        run=_run(scenario.run, path, where),
        workload=_workload(scenario.workload, path, where),
    )
    faults, power = resolved.faults, resolved.power
    if faults is not None and faults.log:
        log = str(_named(faults.log, "faults.log", path, where))
        resolved = msgspec.structs.replace(resolved, faults=msgspec.structs.replace(faults, log=log))
    if power is not None and power.hours:
        hours = str(_named(power.hours, "power.hours", path, where))
        resolved = msgspec.structs.replace(resolved, power=msgspec.structs.replace(power, hours=hours))
    with collected() as problems:
        check_scenario(resolved, tell=functools.partial(problems.add, where))
    if isinstance(resolved.fleet, Fleet):
        resolved = msgspec.structs.replace(resolved, fleet=with_chips(resolved.fleet, catalogue=catalogue()))
    return resolved


def _is_run(text: str, path: Path) -> bool:
    content = read_document(text, format=FORMATS[path.suffix.lower()], source=str(path)).value
    return isinstance(content, dict) and all(key in content for key in RUN_KEYS)


def _fleet(fleet: str | Fleet, scenario: Path, where: Source) -> str | Fleet:
    """Pools described in place, a file beside the scenario, or a line."""
    if isinstance(fleet, Fleet) or not fleet:
        return fleet
    if is_shorthand(fleet):
        try:
            return fleet_of(fleet)
        except SpecError as error:
            raise SpecError(error.message, source=where.at("fleet"), path="fleet", hint=error.hint) from None
    path = _named(fleet, "fleet", scenario, where)
    if path.suffix.lower() not in FORMATS:
        hint = "a fleet is a .yaml, .json or .toml file, or a line like h100-sxm:1024"
        raise SpecError(f"`{fleet}` is no fleet file", source=where.at("fleet"), path="fleet", hint=hint)
    parsed = parse_located(read_document_text(path), kind=Fleet, format=FORMATS[path.suffix.lower()], source=str(path))
    with collected() as problems:
        check_fleet(parsed.spec, catalogue=catalogue(), tell=functools.partial(problems.add, parsed.source))
    return parsed.spec


def _run(run: str | ResolvedRun, scenario: Path, where: Source) -> str | ResolvedRun:
    return load_run(_named(run, "run", scenario, where)) if isinstance(run, str) and run else run


def _workload(workload: Workload | None, scenario: Path, where: Source) -> Workload | None:
    if workload is None or not workload.trace:
        return workload
    path = _named(workload.trace, "workload.trace", scenario, where)
    kind = "sia" if workload.kind is None and looks_like_sia(path) else workload.kind
    return msgspec.structs.replace(workload, trace=str(path), kind=kind)


def _named(text: str, field: str, scenario: Path, where: Source) -> Path:
    """The absolute path of a file that a scenario names, starting at the scenario's folder."""
    path = (scenario.parent / Path(text).expanduser()).absolute()
    try:
        if path.is_file():
            return path
        beside = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        near = did_you_mean(path.name, beside) or " check the path"
        what = "is a folder; name a file in it" if path.is_dir() else f"does not exist;{near}"
    except OSError as error:
        what = f"cannot be read: {error.strerror}; check its permissions"
    raise SpecError(f"`{path}` {what}", source=where.at(field), path=field)
