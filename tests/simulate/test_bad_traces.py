"""Malformed trace files: counted by kind or refused in words, whatever is in them; never a traceback, never a hang."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from myriarch.errors import MyriarchError, SpecError, UsageError
from myriarch.schedule.counted import Counted
from myriarch.schedule.easy import Easy
from myriarch.simulate.queueing import simulate_queue
from myriarch.simulate.workload.reading import READERS, read_trace
from myriarch.simulate.workload.tasks import tasks_of
from myriarch.simulate.workload.trace import Trace

FOLDER = Path(__file__).parent.parent / "data" / "traces"
SAMPLES = {
    "swf": "sample.swf",
    "compact": "compact.csv",
    "philly": "philly.json",
    "helios": "helios.csv",
    "acme": "seren.csv",
    "openb": "openb.csv",
    "pai": "pai.csv",
}
DATE = "2020-04-01 00:00:"
ROWS = {
    "swf": "{id} {submit} 0 {run} {devices} -1 -1 {devices} 60 -1 1 1 1 -1 1 -1 -1 -1\n",
    "compact": "{id},{submit},0,{run},60,,{devices},,,u,g,Pass\n",
    "helios": "{id},u,vc1,{devices},8,1,COMPLETED," + DATE + "{submit},,,{run},0\n",
    "acme": "{id},u,1,{devices},8,1,Other,COMPLETED," + DATE + "{submit},,,{run},0\n",
    "openb": "{id},1000,1000,{devices},1000,,LS,Running,{submit},9{submit},{submit}\n",
    "pai": "{id},t,1,Terminated,{submit},9{submit},100,1,{devices}00,V100\n",
}
HEADS = {
    "swf": "; MaxProcs: 8\n",
    "compact": "job,submit_s,wait_s,run_s,req_s,nodes,gpus,procs,gpu_type,user,group,state\n",
    "helios": "job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue\n",
    "acme": "job_id,user,node_num,gpu_num,cpu_num,x,type,state,submit_time,start_time,end_time,duration,queue\n",
    "openb": "name,cpu,mem,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n",
    "pai": "",
}
WORDS = (
    "", "nan", "-1", "-1e30", "1e300", "1e9", "99999999999999999999999", "inf", "x", "1_0", '"', '"a', "\x00", "0",
    "1e-320", "9999-12-31 23:59:59", "0001-01-01 00:00:00+23:59", "null", "[]", "{}", "é", ",", "0x10", "None",
)  # fmt: skip


def read(kind: str, text: str | bytes, folder: Path) -> Trace:
    path = folder / "trace"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_trace(path, kind=kind)


def row(kind: str, **fields: object) -> str:
    return ROWS[kind].format(**{"id": 1, "submit": "10", "run": 30, "devices": 2, **fields})


@pytest.mark.parametrize("kind", ROWS)
def test_one_line_of_each_defect_is_one_problem(kind: str, tmp_path: Path) -> None:
    defects = {
        "repeated id": row(kind),
        "no devices": row(kind, id=2, devices=0 if kind != "pai" else ""),
        "not a number": row(kind, id=3, devices="many"),
        "out of range": row(kind, id=4, devices="9" * 24),
        "missing field": row(kind, id=5)[:4] + "\n",
    }
    if kind in ("swf", "compact"):
        defects["negative time"] = row(kind, id=6, submit="-5")
        defects["did not run"] = row(kind, id=7, run=0)
    good = row(kind)
    trace = read(kind, HEADS[kind] + good + "".join(defects.values()), tmp_path)
    assert [job.devices for job in trace.jobs] == [2]
    assert trace.problem_counts == dict.fromkeys(sorted(defects), 1)
    assert [one.kind for one in trace.problems] == list(defects)
    assert all(one.text for one in trace.problems)


def test_entries_of_philly_go_wrong_one_by_one(tmp_path: Path) -> None:
    good = (FOLDER / SAMPLES["philly"]).read_text().strip()
    assert good.startswith("[")
    spoilt = '[7, {"jobid": 3}, {"attempts": {}}, {"jobid": "x", "submitted_time": "yesterday"}, ' + good[1:]
    trace = read("philly", spoilt, tmp_path)
    before = read("philly", good, tmp_path)
    assert [job.id for job in trace.jobs] == [job.id for job in before.jobs]
    assert trace.problem_counts["not a record"] == 3
    assert trace.problem_counts["not a number"] == 1


@pytest.mark.parametrize("kind", SAMPLES)
def test_how_a_text_is_written_changes_nothing(kind: str, tmp_path: Path) -> None:
    """Line ends of other systems, a byte order mark, compression without the ending `.gz`."""
    data = (FOLDER / SAMPLES[kind]).read_bytes()
    plain = read(kind, data, tmp_path)
    assert plain.jobs
    for written in (data.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + data, gzip.compress(data)):
        path = tmp_path / "trace"
        path.write_bytes(written)
        assert read_trace(path) == plain


def test_what_is_no_text(tmp_path: Path) -> None:
    data = (FOLDER / SAMPLES["compact"]).read_bytes()
    with pytest.raises(UsageError, match="no text in UTF-8: there is a byte 0xff"):
        read("compact", data.decode().encode("utf-16"), tmp_path)
    zipped = gzip.compress(data)
    for broken in (zipped[:-9], zipped[:15], zipped[:20] + b"\xff\xff\xff" + zipped[23:]):
        with pytest.raises(UsageError, match="cannot be read"):
            read("compact", broken, tmp_path)
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "absent"):
        with pytest.raises(UsageError):
            read_trace(path)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_called_so(text: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match="is empty"):
        read_trace(path)


def test_a_table_that_says_no_devices_is_refused_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no column says how many devices a job has: there are .*`cards`"):
        read("compact", "job,submit_s,run_s,cards\na,0,100,8\n", tmp_path)


def test_a_quote_that_is_left_open_is_one_record(tmp_path: Path) -> None:
    text = HEADS["compact"] + row("compact") + row("compact", id='"2') + row("compact", id=3)
    trace = read("compact", text, tmp_path)
    assert [job.id for job in trace.jobs] == ["1"]
    assert trace.problem_counts == {"not a record": 1}
    endless = HEADS["compact"] + row("compact", id='"' + "x" * 200_000) + row("compact", id=3)
    assert read("compact", endless, tmp_path).problem_counts == {"not a record": 1}


def test_an_open_quote_is_noticed_behind_an_empty_line(tmp_path: Path) -> None:
    text = HEADS["compact"] + row("compact") + "\n" + row("compact", id='"2') + row("compact", id='3"')
    trace = read("compact", text, tmp_path)
    assert [job.id for job in trace.jobs] == ["1"]
    assert [(problem.line, problem.kind) for problem in trace.problems] == [(5, "not a record")]


def test_milliseconds_are_noticed(tmp_path: Path) -> None:
    trace = read("compact", HEADS["compact"] + row("compact", submit="1700000000000"), tmp_path)
    assert trace.problems[0].text == "job 1 submitted at 1.7e+12 s: is that in seconds?"


def test_a_thousand_million_devices_are_a_job_that_is_refused(tmp_path: Path) -> None:
    trace = read("compact", HEADS["compact"] + row("compact", devices=10**9) + row("compact", id=2), tmp_path)
    outcome = simulate_queue(tasks_of(trace), Easy(Counted(8)))
    assert list(outcome.refused.values()) == ["job 1 asks for 1000000000 devices, and all together there are 8"]
    assert outcome.ran.tolist() == [False, True]


def test_seeded_damage_never_gets_through(tmp_path: Path) -> None:
    """Whatever reads as a trace can be scheduled; anything else is an error in words."""
    draw = np.random.default_rng(7)
    read_as_trace = 0
    for _ in range(250):
        kind = str(draw.choice(sorted(SAMPLES)))
        text = (FOLDER / SAMPLES[kind]).read_text()
        for _ in range(int(draw.integers(1, 6))):
            at = int(draw.integers(len(text)))
            until = at + int(draw.integers(0, 12))
            text = text[:at] + WORDS[int(draw.integers(len(WORDS)))] + text[until:]
        try:
            trace = read(kind, text, tmp_path)
        except MyriarchError:
            continue
        read_as_trace += 1
        assert sum(trace.problem_counts.values()) >= len(trace.problems)
        outcome = simulate_queue(tasks_of(trace), Easy(Counted(64)))
        assert outcome.ran.sum() + len(outcome.refused) == len(trace.jobs)
    assert read_as_trace > 100


def test_every_reader_is_tried() -> None:
    assert set(SAMPLES) == set(READERS) == {*ROWS, "philly"}
