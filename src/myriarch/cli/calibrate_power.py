"""What the vendors' tools say of power: the limit of the board, and what it draws now."""

from __future__ import annotations

import json
import subprocess
from typing import Final

_LIMIT_S: Final = 5.0
"""nvidia-smi takes up to 2 s where the driver has to be woken."""


def power_limit_w() -> float | None:
    """Of the first board; None where no tool says it."""
    return next(iter(_nvidia("power.limit") or _amd("Max Graphics Package Power (W)")), None)


def drawn_w() -> list[float]:
    """Of the board that draws most now; empty where no tool says it."""
    drawn = _nvidia("power.draw") or _amd("Current Socket Graphics Package Power (W)")
    return [max(drawn)] if drawn else []


def _nvidia(field: str) -> list[float]:
    said = _said(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"])
    return [value for line in said.splitlines() if (value := _number(line)) > 0]


def _amd(field: str) -> list[float]:
    try:
        cards = json.loads(_said(["rocm-smi", "--showmaxpower", "--showpower", "--json"]) or "{}")
    except json.JSONDecodeError:
        return []
    values = [_number(card.get(field, "")) for card in cards.values() if isinstance(card, dict)]
    return [value for value in values if value > 0]


def _number(text: str) -> float:
    """0 for `[N/A]` and the like."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _said(command: list[str]) -> str:
    """What the tool prints; nothing where it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
