"""`myriarch match`: what people and programs read, exit codes, errors that name the culprit."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from myriarch.cli.match import match
from myriarch.cli.schema import document
from myriarch.errors import SpecError, UsageError
from myriarch.schedule.broker_result import Matching

EXAMPLE = Path(__file__).parents[2] / "examples" / "broker"
JOBS, MARKET = str(EXAMPLE / "jobs.yaml"), str(EXAMPLE / "market.yaml")


def test_a_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert match(JOBS, MARKET) == 3  # frontier fits nowhere
    said = capsys.readouterr()
    assert said.err == ""
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    assert rows["pretrain"].split()[1:3] == ["west", "64"]
    assert "6,254.24" in rows["pretrain"]
    assert "+2,285.81" in rows["pretrain"]
    assert "frontier: nothing; fits no pool; nearest is cloud: needs 512 devices" in said.out
    assert "compared: 7,333.88 CNY" in said.out
    assert all(len(line) <= 120 for line in said.out.splitlines() if not line.startswith(("frontier:", "note")))


def test_every_alternative_of_one_job_has_its_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert match(JOBS, MARKET, job="pretrain") == 0
    said = capsys.readouterr().out
    first = [line.split()[0] for line in said.splitlines() if line.startswith(" ")]
    assert first == ["pool", "west", "wind", "cloud", "campus"]
    for parts in (("chosen", "8,448"), ("free", "8,064"), ("free", "11,633"), ("cannot", "-")):
        assert any(all(part in line for part in parts) for line in said.splitlines())
    assert "campus: needs 64 devices; at most 24 are free at once, 40 short" in said
    assert match(JOBS, MARKET, job="frontier") == 3


def test_chinese_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert match(JOBS, MARKET, lang="zh", method="greedy") == 3
    said = capsys.readouterr().out
    for word in (
        "算力撮合",
        "算力池",
        "先到先配",
        "未分到",
        "比价",
        "最接近的是 cloud：同时空闲的卡不足：需要 512，只有 256",
        "注: cloud 的碳排放未知，在比价中不计",
    ):
        assert word in said


def test_chinese_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    assert match(JOBS, MARKET, lang="zh", job="pretrain", method="arrival") == 0
    said = capsys.readouterr().out
    assert "算力券 guizhou-2026 抵" in said
    assert "次优 wind，多付 +" in said
    assert "campus: 同时空闲的卡不足：需要 64，只有 24" in said


def test_a_terminal_without_chinese_letters_gets_english(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", said := io.StringIO())
    match(JOBS, MARKET, lang="zh", method="arrival")
    out.seek(0)
    assert out.read().startswith("Match: 6 jobs on 4 pools")
    assert "ascii has no Chinese letters" in said.getvalue()


def test_json_is_of_the_published_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert match(JOBS, MARKET, json_output=True) == 3
    whole = capsys.readouterr().out
    jsonschema.Draft202012Validator(document("match")).validate(json.loads(whole))
    assert msgspec.json.decode(whole, type=Matching).unplaced == ("frontier",)
    assert match(JOBS, MARKET, json_output=True, job="sweep") == 0
    assert [each["job"] for each in json.loads(capsys.readouterr().out)["decisions"]] == ["sweep"]


def test_the_order_of_the_files_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = yaml.safe_load((EXAMPLE / "jobs.yaml").read_text())
    turned = tmp_path / "jobs.yaml"
    turned.write_text(yaml.safe_dump({"jobs": jobs["jobs"][::-1]}))
    match(JOBS, MARKET, json_output=True)
    straight = capsys.readouterr().out
    match(str(turned), MARKET, json_output=True)
    assert capsys.readouterr().out == straight


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "bacth"}, "`bacth` is unknown; did you mean `batch`?"),
        ({"job": "pretrian"}, "did you mean `pretrain`?"),
        ({"seconds": 0.0}, "is no time to solve in"),
    ],
)
def test_wrong_options(options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        match(JOBS, MARKET, **options)  # type: ignore[arg-type]
    assert said in str(raised.value)


def test_wrong_files() -> None:
    with pytest.raises(SpecError, match="does not exist"):
        match("nowhere.yaml", MARKET)
    with pytest.raises(SpecError, match="a jobs has `jobs`"):
        match(MARKET, JOBS)


def test_contradictions_name_both_files(tmp_path: Path) -> None:
    market = yaml.safe_load((EXAMPLE / "market.yaml").read_text())
    del market["rates"]
    path = tmp_path / "market.yaml"
    path.write_text(yaml.safe_dump(market))
    with pytest.raises(SpecError, match=r"market\.yaml.*USD and CNY have no sum"):
        match(JOBS, str(path))


def test_a_place_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    job = {"name": "a", "devices": 1, "device_hours": {"campus": 1}, "earliest_s": 20, "deadline_s": 10}
    path.write_text(yaml.safe_dump({"jobs": [job]}))
    with pytest.raises(SpecError) as raised:
        match(str(path), MARKET)
    assert raised.value.message.count("deadline_s") == 1


def test_as_a_command(myriarch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    for name in ("jobs.yaml", "market.yaml"):
        shutil.copy(EXAMPLE / name, tmp_path)
    done = myriarch("match", "jobs.yaml", "market.yaml", "--method", "arrival", "--job", "evaluation")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("evaluation: campus, 12-01 12:00")
