"""What PyTorch's own elastic launcher needs to recover: the peer that `recovery.py` measures in the same run.

Two agents with one gloo worker each on this machine, the model's state in a DCP checkpoint on disk. A worker is killed
with SIGKILL; torchrun restarts all workers, which load the checkpoint. Time: from the kill to the next completed step
of the new workers. Rendezvous settings are the fastest that came back in our trials: keep-alive 1 s, last call 2 s,
monitor interval 50 ms (the defaults take longer and fail to come back more often).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

RENDEZVOUS = "join_timeout=120,keep_alive_interval=1,keep_alive_max_attempt=5,last_call_timeout=2"
RECOVERY_LIMIT_S = 60.0

WORKER = r"""
import json, os, sys, time
import torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
torch.set_num_threads(1)
dist.init_process_group("gloo")
state = {f"tensor{i}": torch.zeros(int(os.environ["PEER_STATE_BYTES"]) // 4 // 16) for i in range(16)}
state["step"] = torch.zeros((), dtype=torch.int64)
folder = os.environ["PEER_FOLDER"]
if os.path.exists(os.path.join(folder, ".metadata")):
    dcp.load(state, checkpoint_id=folder)
gradient = torch.ones(1 << 18)
def say(**what):
    print("@@" + json.dumps({**what, "pid": os.getpid(), "at": time.time()}), flush=True)
while True:
    time.sleep(float(os.environ["PEER_STEP_S"]))
    dist.all_reduce(gradient); gradient.fill_(1.0)
    state["step"] += 1
    step = int(state["step"])
    if step == 5 and not os.path.exists(os.path.join(folder, ".metadata")):
        dcp.save(state, checkpoint_id=folder)
    say(step=step)
"""


class Peer:
    """Two torchrun agents and what their workers say."""

    def __init__(self, folder: Path, *, state_bytes: int, step_s: float, port: int) -> None:
        self.said: list[dict[str, Any]] = []
        self.agents: list[subprocess.Popen[str]] = []
        self._mark = f"PEER_FOLDER={folder / 'checkpoint'}".encode()
        script = folder / "worker.py"
        script.write_text(WORKER)
        environment = {
            **os.environ,
            "PEER_FOLDER": str(folder / "checkpoint"),
            "PEER_STATE_BYTES": str(state_bytes),
            "PEER_STEP_S": str(step_s),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=50",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=peer", f"--rdzv-conf={RENDEZVOUS}",
            "--monitor-interval=0.05", "--local-addr=localhost", str(script),
        ]  # fmt: skip
        for _ in range(2):
            agent = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
                start_new_session=True,
            )  # fmt: skip
            self.agents.append(agent)
            threading.Thread(target=self._listen, args=(agent,), daemon=True).start()
            time.sleep(1.0)  # the first agent hosts the rendezvous store

    def _listen(self, agent: subprocess.Popen[str]) -> None:
        assert agent.stdout is not None
        for line in agent.stdout:
            at = line.find("@@")
            if at >= 0:
                with contextlib.suppress(ValueError):
                    self.said.append(json.loads(line[at + 2 :]))

    def wait_for(self, after: float, pids: set[int]) -> float | None:
        """When both agents' workers, none of `pids`, have completed a step after `after`; None after the limit."""
        end = time.monotonic() + RECOVERY_LIMIT_S
        while time.monotonic() < end:
            fresh = [word for word in list(self.said) if word["at"] > after and word["pid"] not in pids]
            if len({word["pid"] for word in fresh}) >= 2:
                return float(min(word["at"] for word in fresh))
            time.sleep(0.02)
        return None

    def pids(self) -> set[int]:
        """Workers that have spoken in the last half second."""
        now = time.time()
        return {word["pid"] for word in list(self.said) if now - word["at"] < 0.5}

    def close(self) -> None:
        """torchrun starts workers in sessions of their own: each is ended by its id, also one that never spoke."""
        for agent in self.agents:
            agent.send_signal(signal.SIGKILL)
            agent.wait()
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and self._mark in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)


def measure(trials: int, *, state_bytes: int, step_s: float, port: int) -> list[float | None]:
    """Seconds from SIGKILL of a worker to the next completed step, per trial; None: did not come back in time.

    After a trial that did not come back, a new job is started for the next.
    """
    results: list[float | None] = []
    while len(results) < trials:
        with tempfile.TemporaryDirectory(prefix="myriarch-peer-") as name:
            peer = Peer(Path(name), state_bytes=state_bytes, step_s=step_s, port=port + len(results))
            try:
                results += _kill_until_lost(peer, trials - len(results))
            finally:
                peer.close()
    return results


def _kill_until_lost(peer: Peer, trials: int) -> list[float | None]:
    """Kill workers of one job, until it has been done often enough or the job does not come back."""
    if peer.wait_for(0.0, set()) is None:
        return [None]
    results: list[float | None] = []
    while len(results) < trials and None not in results:
        time.sleep(2.0)  # past the checkpoint of step 5, and settled
        before, old = peer.pids(), {word["pid"] for word in peer.said}
        killed_at = time.time()
        os.kill(min(before), signal.SIGKILL)
        back = peer.wait_for(killed_at, old)
        results.append(None if back is None else back - killed_at)
    return results
