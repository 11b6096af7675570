"""The composed machine: events in, actions out. It decides everything and does nothing."""

from __future__ import annotations

from myriarch.control.machine import Control
from myriarch.control.view import ControlView, GroupView, NodeView, WorkerView

__all__ = ["Control", "ControlView", "GroupView", "NodeView", "WorkerView"]
