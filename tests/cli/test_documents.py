"""The documents say what is there: both languages in step, links and paths that exist, commands that parse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from myriarch.cli import VERBS
from myriarch.cli.report_words import LEAVES_ZH
from myriarch.event.spans import LEAVES

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ENGLISH = (ROOT / "README.md").read_text()
CHINESE = (ROOT / "README.zh-CN.md").read_text()


def _blocks(text: str) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def _marks(text: str) -> list[str]:
    return re.findall(r"<!-- (/?[a-z-]+) -->", text)


def _commands(block: str) -> list[str]:
    """A block's lines without their comments, which are translated."""
    return [line.partition("#")[0].rstrip() for line in block.splitlines()]


def _first_column(block: str) -> list[str]:
    return [re.split(r"\s{2,}", line.strip())[0] for line in block.splitlines()]


@pytest.mark.parametrize("pattern", [r"^(#+) ", r"^(\d)\. ", r"^(\|)", r"^(```\w*)$"])
def test_both_languages_have_the_same_parts(pattern: str) -> None:
    assert re.findall(pattern, ENGLISH, re.MULTILINE) == re.findall(pattern, CHINESE, re.MULTILINE)


def test_both_languages_show_the_same_commands_outputs_and_tree() -> None:
    assert _marks(ENGLISH) == _marks(CHINESE)
    for english, chinese in zip(_blocks(ENGLISH), _blocks(CHINESE), strict=True):
        assert _commands(english) == _commands(chinese) or _first_column(english) == _first_column(chinese)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_verbs_that_are_named_exist(path: Path) -> None:
    for verb in re.findall(r"\bmyriarch ([a-z]+)\b", path.read_text()):
        assert verb in VERBS, verb


def test_the_tree_names_every_package() -> None:
    (tree,) = (block for block in _blocks(ENGLISH) if "src/myriarch/" in block)
    named = set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE))
    there = {path.parent.name for path in (ROOT / "src/myriarch").glob("*/__init__.py")}
    assert named == there


def test_the_glossary_has_every_leaf_as_the_report_says_it() -> None:
    rows = re.findall(
        r"^\| ?(?:[a-z]+ \S+)? ?\| `(\w+)` \| ([^|]+) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
    )
    assert rows == [(leaf, LEAVES_ZH[leaf]) for leaf in LEAVES]


def test_glossary_defines_each_word_once() -> None:
    terms, _leaves = (ROOT / "docs/glossary.md").read_text().split("### Leaves")
    words = [
        word.strip()
        for row in re.findall(r"^\| ([^|]+) \|", terms, re.MULTILINE)
        if row not in ("word", "---")
        for word in row.split(",")
    ]
    assert len(words) == len(set(words))
