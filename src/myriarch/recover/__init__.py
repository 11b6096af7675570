"""Faults: noticing them, telling causes from symptoms, deciding what to do. Pure; `control` carries it out."""

from __future__ import annotations

from myriarch.recover.detector import FailureDetector

__all__ = ["FailureDetector"]
