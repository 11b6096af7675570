"""`myriarch validate FILE`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema

Command = Callable[..., "subprocess.CompletedProcess[str]"]
DATA = Path(__file__).parents[1] / "data" / "published_configs.yaml"


def test_json_follows_its_schema(myriarch: Command) -> None:
    done = myriarch("validate", str(DATA), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    jsonschema.validate(made, json.loads(myriarch("schema", "validate").stdout))
    assert made["overall"]["n"] == 436


def test_people_get_a_table_and_the_reasons(myriarch: Command) -> None:
    done = myriarch("validate", str(DATA))
    assert done.returncode == 0
    assert "llmfoundry" in done.stdout
    assert "0 of 436 measured runs rejected" in done.stdout
    assert "not predicted: 36 rows" in done.stdout


def test_another_file_is_explained(myriarch: Command, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("a: [", "utf-8")
    for path, said in ((wrong, "not YAML"), (tmp_path / "none.yaml", "does not exist")):
        done = myriarch("validate", str(path))
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
