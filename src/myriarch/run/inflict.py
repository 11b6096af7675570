"""Faults on purpose, as an agent inflicts them: on its whole node, or on one worker."""

from __future__ import annotations

import os
import signal

from myriarch.run import procfs
from myriarch.run.messages import Inflict, Inflicted
from myriarch.run.node import Node
from myriarch.run.worker import Worker
from myriarch.run.workers import WorkerTable


class Inflictor:
    """Obeys `Inflict`. A killed or stopped node does not answer."""

    def __init__(self, node: Node, workers: WorkerTable) -> None:
        self._node = node
        self._workers = workers

    def inflict(self, order: Inflict) -> Inflicted:
        if order.worker is None:
            error = self._on_node(order)
        else:
            worker = self._workers.find(*order.worker)
            if worker is None or not worker.pid:
                error = f"worker {order.worker[0]}/{order.worker[1]} is not running on {self._node.id}"
            else:
                error = self._on_worker(order, worker)
        return Inflicted(id=order.id, error=error)

    def _on_node(self, order: Inflict) -> str:
        if order.action in ("kill", "stop") and os.getpgid(0) != os.getpid():
            return f"the agent of {self._node.id} leads no process group; it would take others with it"
        match order.action:
            case "kill":
                procfs.kill_group(os.getpid(), signal.SIGKILL)
            case "stop":
                procfs.kill_group(os.getpid(), signal.SIGSTOP)
            case "slow" | "resume":
                return self._slow(range(self._node.place.devices), order.factor)
        return ""

    def _on_worker(self, order: Inflict, worker: Worker) -> str:
        match order.action:
            case "kill":
                procfs.kill(worker.pid, signal.SIGKILL)
            case "stop":
                self._node.frozen.add(worker.pid)
                procfs.kill(worker.pid, signal.SIGSTOP)
            case "resume":
                self._node.frozen.discard(worker.pid)
                procfs.kill(worker.pid, signal.SIGCONT)
                return self._slow((worker.plan.device_index,), None)
            case "slow":
                return self._slow((worker.plan.device_index,), order.factor)
        return ""

    def _slow(self, devices: range | tuple[int, ...], factor: float | None) -> str:
        """Leave `factor` of the devices' speed; None: all that the fleet file gives them."""
        base = self._node.place.cpu_fraction
        fraction = base if factor is None else factor * (base or 1.0)
        try:
            for device in devices:
                self._node.limiter.limit(device, fraction)
        except OSError as error:
            return f"the CPU quota of {self._node.id} cannot be set: {error.strerror}"
        return ""
