"""Every simulator gives the same digest under another hash seed, in another process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import msgspec, xxhash
from myriarch.event.journal import digest
from myriarch.schedule.conservative import Conservative
from myriarch.schedule.conservative_nodes import ConservativeNodes
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.schedule.layout import PoolLayout
from myriarch.schedule.placed import Placed
from myriarch.schedule.ranked import Ranked
from myriarch.schedule.rankings import ByArrival, LeastService, ShortestRemaining
from myriarch.schedule.stream import Recorder, read
from myriarch.simulate.breakdowns import Breakdown
from myriarch.simulate.cluster import simulate_cluster
from myriarch.simulate.queueing import Task, simulate_queue
from myriarch.simulate.workload.deep_learning import MIXES, deep_learning

POOLS = (
    PoolLayout(name="a", nodes=8, devices_per_node=8, nodes_per_rack=4, racks_per_pod=2),
    PoolLayout(name="b", nodes=4, devices_per_node=4),
)
tasks = [
    Task(job=msgspec.structs.replace(task.job, preemptible=True, save_s=5.0, restart_s=20.0, saves_every_s=300.0),
         run_s=task.run_s)
    for task in deep_learning(80, MIXES["helios"], devices=64, load=1.1, seed=5)
]
courses = ["repair", "maintenance", "in_place", "slow", "repair"]
breakdowns = [
    Breakdown(at_s=2000.0 * n, pool="ab"[n % 2], node=n % 4, cause="test", course=courses[n % 5], duration_s=900.0,
              factor=0.5, announced_s=600.0 if courses[n % 5] == "maintenance" else 0.0)
    for n in range(1, 20)
]
MAKERS = {
    "easy": lambda: Easy(Placed(POOLS)),
    "conservative": lambda: ConservativeNodes(Placed(POOLS)),
    "arrival": lambda: Ranked(Placed(POOLS), ByArrival()),
    "las": lambda: Ranked(Placed(POOLS), LeastService()),
    "srtf": lambda: Ranked(Placed(POOLS), ShortestRemaining(lambda job: job.estimate_s)),
}
print("counted", simulate_queue(tasks, Conservative(Counted(80))).digest)
for name, make in MAKERS.items():
    if name in ("easy", "conservative"):
        print("queue", name, simulate_queue(tasks, make()).digest)
    data = bytearray()
    recorder = Recorder(make(), data.extend)
    outcome = simulate_cluster(tasks, recorder, breakdowns=breakdowns)
    recorder.close()
    print("cluster", name, outcome.digest, xxhash.xxh3_128_hexdigest(bytes(data)))
"""

LIVE = """
import gzip, sys
import msgspec
from myriarch.event.events import FaultInjected
from myriarch.event.journal import scan
from myriarch.simulate import Fault
from myriarch.simulate.from_live import Question, read_live, what_if
records = scan(gzip.decompress(open(sys.argv[1], "rb").read())).records
end = next(at for at, one in enumerate(records) if isinstance(one.event, FaultInjected))
question = Question(faults=(Fault(action="kill", target="fast-1", at_s=0.1),), rate_per_node_s=0.02, seeds=3)
print(msgspec.json.encode(what_if(read_live(records[:end]), question)).decode())
"""


def _outputs(script: str, *arguments: str) -> set[str]:
    found = set()
    for seed in ("0", "4711"):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    return found


def test_queues_and_clusters() -> None:
    (told,) = _outputs(SCRIPT)
    assert len(set(told.splitlines())) == 8


def test_what_if_on_a_live_run() -> None:
    journal = os.path.join(os.path.dirname(__file__), os.pardir, "data", "journals", "two-pools.jsonl.gz")
    (told,) = _outputs(LIVE, journal)
    assert '"replace_node"' in told
