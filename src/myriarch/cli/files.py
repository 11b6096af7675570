"""Run, fleet and model files on disk to their structs; fleets and models also by a line or a name."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from myriarch.errors import SpecError
from myriarch.spec.base import Spec
from myriarch.spec.catalogue import catalogue
from myriarch.spec.consistency import check_fleet, check_model
from myriarch.spec.document import Source
from myriarch.spec.fleet import Fleet
from myriarch.spec.model import Model
from myriarch.spec.models import lookup_model
from myriarch.spec.parse import FORMATS, Parsed, parse_located
from myriarch.spec.problems import collected, did_you_mean, listed
from myriarch.spec.profile import Profile, parse_profile
from myriarch.spec.resolve import Sources, resolve, with_chips
from myriarch.spec.run import ResolvedRun, Run
from myriarch.spec.shorthand import fleet_of, is_shorthand

T = TypeVar("T", bound=Spec)

FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""A larger file is not a spec: somebody named the data, a checkpoint or a log."""


def load_run(path: Path) -> ResolvedRun:
    """Read a run file and the fleet and model files that it names; check them; fill in what follows from them.

    Paths inside the run file start at its folder. A data source on disk comes out absolute, because the workers'
    working directory is not the user's. Raises SpecError with file, line, place, value and remedy.
    """
    run = _read(path, Run)
    fleet = _read_named(path, run, "fleet", Fleet)
    model = _read_named(path, run, "model", Model)
    sources = Sources(run=run.source, fleet=fleet.source, model=model.source)
    resolved = resolve(run.spec, fleet.spec, model.spec, catalogue=catalogue(), sources=sources)
    return msgspec.structs.replace(resolved, run=_with_data_found(resolved.run, path, run))


def load_model(text: str) -> Model:
    """The model of a file, or of the catalogue by its name. Raises SpecError when it is neither, with the nearest."""
    if _means_file(text):
        parsed = _read(Path(text), Model)
        with collected() as problems:
            check_model(parsed.spec, tell=functools.partial(problems.add, parsed.source))
        return parsed.spec
    return lookup_model(text)


def load_fleet(text: str) -> Fleet:
    """The fleet of a file, or of a line like `h100-sxm:512+mi300x:256@25GB/s` (`spec.shorthand`), its chips inline.

    Raises SpecError when it is neither, or when its parts do not fit together.
    """
    if _means_file(text):
        parsed = _read(Path(text), Fleet)
        with collected() as problems:
            check_fleet(parsed.spec, catalogue=catalogue(), tell=functools.partial(problems.add, parsed.source))
        return with_chips(parsed.spec, catalogue=catalogue())
    if not is_shorthand(text):
        chip = (
            f", like {text}:1024" if text in catalogue() else ", like h100-sxm:1024 or h100-sxm:512+mi300x:256@25GB/s"
        )
        message = f"`{text}` is neither a fleet file nor a fleet in one line; write `chip:devices`{chip}"
        raise SpecError(message, hint=f"a fleet file ends in {listed(FORMATS)}")
    fleet = fleet_of(text)
    with collected() as problems:
        check_fleet(fleet, catalogue=catalogue(), tell=functools.partial(problems.add, Source(text)))
    return with_chips(fleet, catalogue=catalogue())


def load_profile(text: str) -> Profile:
    """A profile that `myriarch doctor --calibrate` wrote. Raises SpecError with file, line, place, value and remedy."""
    path = Path(text)
    return parse_profile(read_document_text(path), format=FORMATS[path.suffix.lower()], source=str(path))


def _means_file(text: str) -> bool:
    """Whether it is a path: it ends like a spec file, or is in a folder."""
    path = Path(text)
    # A bandwidth has a slash, too: `h100-sxm:512+mi300x:256@25GB/s` is no folder.
    return path.suffix.lower() in FORMATS or (path.parent != Path() and not is_shorthand(text))


def _read_named(run_path: Path, run: Parsed[Run], field: str, kind: type[T]) -> Parsed[T]:
    """The file that `field` of the run file names; its absence is a mistake in the run file."""
    named = run_path.parent / str(getattr(run.spec, field))
    wrong = _unreadable(named)
    if wrong:
        raise SpecError(wrong, source=run.source.at(field), path=field)
    return _read(named, kind)


def _read(path: Path, kind: type[T]) -> Parsed[T]:
    return parse_located(read_document_text(path), kind=kind, format=FORMATS[path.suffix.lower()], source=str(path))


def read_document_text(path: Path) -> str:
    """The text of a YAML, JSON or TOML file. Raises SpecError when it is not there, too large or not UTF-8."""
    wrong = _unreadable(path)
    if wrong:
        raise SpecError(wrong)
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"`{path}` does not end in {listed(FORMATS)}, which say what it is; rename it")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise SpecError(f"`{path}` cannot be read: {error.strerror}; check its permissions") from None
    if len(data) > FILE_LIMIT_BYTES:
        raise SpecError(f"`{path}` is larger than {FILE_LIMIT_BYTES} bytes; a spec file is a few thousand")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"`{path}` is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _unreadable(path: Path) -> str:
    """Why `path` is not a file to read, in the words of an error; nothing when it is one."""
    try:
        if path.is_file():
            return ""
        if path.is_dir():
            inside = _spec_files(path)
            return f"`{path}` is a folder; name a file" + (f" in it, like {listed(inside, limit=4)}" if inside else "")
        if path.exists():
            return f"`{path}` is not a regular file; name one"
        if not path.parent.is_dir():
            return f"`{path}` does not exist, nor does its folder; check the path"
        return f"`{path}` does not exist;{did_you_mean(path.name, _spec_files(path.parent)) or ' check the path'}"
    except OSError as error:
        return f"`{path}` cannot be read: {error.strerror}; check its permissions"


def _spec_files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() in FORMATS)


def _with_data_found(run: Run, run_path: Path, parsed: Parsed[Run]) -> Run:
    if run.data.source == "stdlib":
        return run
    source = (run_path.parent / Path(run.data.source).expanduser()).absolute()
    if not source.exists():
        remedy = "name a UTF-8 file, a folder of such, or `stdlib`"
        where = parsed.source.at("data.source")
        raise SpecError(f"`{source}` does not exist; {remedy}", source=where, path="data.source")
    if source.is_file() and source.stat().st_size == 0:
        where = parsed.source.at("data.source")
        raise SpecError(f"`{source}` is empty; name a file with text", source=where, path="data.source")
    return msgspec.structs.replace(run, data=msgspec.structs.replace(run.data, source=str(source)))
