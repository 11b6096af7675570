"""What a recorded queue is asked: who waits, for how long yet, how long a new job would, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from myriarch.cli.app import run
from myriarch.cli.report import report
from myriarch.cli.schema import document
from myriarch.cli.simulate_queue import new_job
from myriarch.errors import UsageError
from myriarch.schedule.stream import read
from myriarch.schedule.waits_stream import Told
from myriarch.simulate.from_live_queue import NewJob
from myriarch.simulate.scenario_waits import calibration_of

SCENARIO = """
name: queue
fleet: a100-sxm-80:16
workload:
  generator: {name: philly, jobs: 60, load: 6}
  traits: [{preemptible: true, restart_s: 1}]
policy: {name: srtf}
faults: {per_node_day: 2, repair_s: 1 h}
forecasts: true
until_s: 9 h
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queue.yaml").write_text(SCENARIO)
    return tmp_path


def out(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_forecasts_change_nothing_and_are_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plain.yaml").write_text(SCENARIO.replace("forecasts: true\n", ""))
    assert run(["simulate", "plain.yaml", "--json"]) == 0
    plain = out(capsys)
    assert run(["simulate", "queue.yaml", "--json"]) == 0
    made = out(capsys)
    jsonschema.validate(made, document("simulate"))
    assert made["jobs"]["decisions_digest"] == plain["jobs"]["decisions_digest"]
    waits = made["jobs"].pop("waits")
    assert plain["jobs"].pop("waits") is None
    assert made["jobs"] == plain["jobs"]
    assert waits["estimates"] is False, "they were made up from run times"
    assert (waits["calibration"]["scored"], waits["calibration"]["quantiles"]) == (0, [])
    assert len(waits["jobs"]) == made["jobs"]["all"]["jobs"] - made["jobs"]["all"]["refused"]
    lines = Path(made["files"]["jobs"]).read_text().splitlines()
    told = {line.split(",")[0]: line.split(",")[-2:] for line in lines}
    assert told["job"] == ["told_p50_s", "told_p90_s"]
    assert {one["job"]: [str(one["p50_s"]), str(one["p90_s"])] for one in waits["jobs"]}.items() <= told.items()
    entries = read(Path(made["files"]["stream"]).read_bytes())
    assert any(entry.preempt is not None for entry in entries), "some were stopped, and waited again"

    assert report("queue", json_output=False, lang="zh") == 0
    assert "尚未学到" in capsys.readouterr().out
    assert run(["simulate", "--from-live", "queue", "--job", "8:4h:a/b", "--job", "99:1d", "--json"]) == 0
    queue = out(capsys)
    jsonschema.validate(queue, document("queue"))
    assert queue["at_s"] == max(entry.stimulus.at_s for entry in entries if entry.stimulus is not None)
    assert queue["closed"]
    assert queue["estimates"] is False
    assert {one["job"] for one in queue["waiting"]} >= {one["job"] for one in waits["jobs"] if one["wait_s"] is None}
    asked, large = queue["asked"]
    assert asked["job"] == {"devices": 8, "estimate_s": 14400.0, "tenant": "a", "user": "b"}
    assert 0.0 <= asked["p50_s"] <= asked["p90_s"]
    assert (large["p50_s"], large["p90_s"]) == (None, None)
    assert "asks for 99 devices" in large["refused"]
    for lang, words in (("en", ("never", "refused: asks for 99")), ("zh", ("永不", "被拒绝: 需要 99 卡", "正在等待"))):
        assert run(["simulate", "--from-live", "queue", "--job", "99:1d", "--as-of-s", "9000", "--lang", lang]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words), shown
    for options, told_of in (
        (["--kill", "a-1"], "--kill: not of a queue of jobs"),
        (["--seeds", "3"], "--seeds: not of a queue of jobs"),
        (["--as-of-s", "-5"], "no job was submitted until then"),
        (["--as-of-s", "nan"], "is no instant"),
        (["--job", "8"], "`8` is no job"),
        (["--lang", "xx"], "--lang: `xx` is not known"),
    ):
        assert run(["simulate", "--from-live", "queue", *options]) == 2
        assert told_of in capsys.readouterr().err
    assert run(["simulate", "--from-live", "queue.yaml"]) == 1
    assert "the stream begins with" in capsys.readouterr().err
    assert run(["simulate", "queue.yaml", "--job", "8:4h"]) == 2


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("8:4h", NewJob(devices=8, estimate_s=14_400.0)),
        ("1:30 min:t", NewJob(devices=1, estimate_s=1_800.0, tenant="t")),
        (" 512:2d:t/u ", NewJob(devices=512, estimate_s=172_800.0, tenant="t", user="u")),
    ],
)
def test_a_job_in_a_word(text: str, job: NewJob) -> None:
    made = new_job(text)
    assert msgspec.structs.replace(made, estimate_s=job.estimate_s) == job
    assert made.estimate_s == pytest.approx(job.estimate_s)


@pytest.mark.parametrize("text", ["", "8", "0:4h", "-8:4h", "8:4", "8:4h:", "8:4h:a/b/c", "9999999999:1h", "8:0h"])
def test_what_is_no_job(text: str) -> None:
    with pytest.raises(UsageError, match="--job"):
        new_job(text)


def told(wait_s: float | None, *, p50_s: float = 10.0, p90_s: float = 100.0, learnt_from: int = 200) -> Told:
    rest: dict[str, Any] = {"job": "j", "submit_s": 0.0, "devices": 1, "learnt_from": learnt_from}
    return Told(p50_s=p50_s, p90_s=p90_s, wait_s=wait_s, **rest)


def test_what_is_not_known_yet_counts_neither_way() -> None:
    rows = [told(5.0), told(50.0), told(500.0), told(0.0, p50_s=0.0, p90_s=0.0), told(None), told(7.0, learnt_from=0)]
    for end_s, known in ((9.0, (4, 4)), (50.0, (5, 4)), (1000.0, (5, 5))):
        made = calibration_of(rows, end_s=end_s)
        p50, p90 = made.quantiles
        assert made.scored == 5
        assert (p50.jobs, p90.jobs) == known
        assert p50.within * p50.jobs == pytest.approx(2)
        assert p90.within * p90.jobs == pytest.approx(3)
        assert p50.told == 1 - 1 / p50.jobs
        assert p50.below * p50.jobs == pytest.approx(1), "who starts at once as told is not below"
    assert calibration_of([], end_s=0.0).loss is None
