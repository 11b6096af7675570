"""`myriarch doctor`: what this machine offers to a fleet, and what it lacks.

Every line is measured or read now, on this machine, and cleaned up after. `probe_*` modules look; this one judges
nothing: it runs them, draws the table and decides the exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from myriarch.cli import probe_machine, probe_rates, probe_torch
from myriarch.cli.finding import Finding, Verdict
from myriarch.errors import EXIT_DEGRADED, EXIT_OK, UsageError

_SEVERITY: Final[tuple[Verdict, ...]] = ("ok", "warn", "missing")


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All findings about one machine: what `myriarch doctor --json` prints."""

    schema: Literal["myriarch.doctor/1"] = "myriarch.doctor/1"
    verdict: Verdict
    """The worst of the findings. `missing`: `myriarch train` cannot work here."""
    findings: tuple[Finding, ...]


def doctor(*, json_output: bool, calibrate: bool = False, output: str = "", seconds: float | None = None) -> int:
    """Probe, print, and return 0, or 3 if something that `train` needs is missing.

    With `calibrate`, measure the devices instead and write a profile to `output`.
    """
    if calibrate:
        from myriarch.cli import calibrate as module

        return module.calibrate(
            output=output, seconds=module.SECONDS if seconds is None else seconds, json_output=json_output
        )
    if output or seconds is not None:
        raise UsageError("--output and --seconds go with --calibrate; add it")
    diagnosis = diagnose(Path.cwd())
    if json_output:
        print(msgspec.json.format(msgspec.json.encode(diagnosis), indent=2).decode())
    else:
        print("\n".join(_table(diagnosis)))
    return EXIT_DEGRADED if diagnosis.verdict == "missing" else EXIT_OK


def diagnose(directory: Path) -> Diagnosis:
    """Run every probe. `directory` is where runs would be written. Takes about three seconds.

    Importing torch takes most of that and keeps one core busy, so it happens in a process of its own while facts are
    read, and has ended before rates are measured.
    """
    with probe_torch.Import() as torch_import:
        facts = [probe(directory) for probe in probe_machine.PROBES]
        torch_findings = torch_import.findings()
    rates = [probe(directory) for probe in probe_rates.PROBES]
    findings = (*facts[:1], *torch_findings, *facts[1:], *rates)
    verdict = max((finding.verdict for finding in findings), key=_SEVERITY.index)
    return Diagnosis(verdict=verdict, findings=findings)


_CLOSING: Final[dict[Verdict, str]] = {
    "ok": "Everything that `myriarch train` needs is here.",
    "warn": "Everything that `myriarch train` needs is here; the lines marked `warn` could be better.",
    "missing": "`myriarch train` cannot work here before the lines marked `missing` are mended.",
}


def _table(diagnosis: Diagnosis) -> Iterator[str]:
    width = max(len(finding.name) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        yield f"{finding.verdict:<7}  {finding.name:<{width}}  {finding.value}"
        if finding.remedy:
            yield f"{'':<7}  {'':<{width}}  hint: {finding.remedy}"
    yield ""
    yield _CLOSING[diagnosis.verdict]
