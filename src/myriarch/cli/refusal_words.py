"""Why a job is refused, in Chinese: the sentences of `schedule` by pattern, with the numbers that are in them.

In English a refusal is the scheduler's own sentence. `tests/cli/test_refusal_words.py` lets every scheduler refuse for
every reason that there is, and finds no English left.
"""

from __future__ import annotations

import re
from typing import Final

from myriarch.cli.report_words import Language, by_pattern

_NAME: Final = r"`([^`]*)`"
_DOMAINS: Final = {"node": "节点", "rack": "机架", "pod": "Pod", "pool": "池"}
_WHOLE: Final[tuple[tuple[str, str], ...]] = (
    (r"asks for (-?\d+) devices, and all together there are (\d+)", r"需要 \1 卡，全部只有 \2 卡"),
    (r"asks for (-?\d+) devices for (\S+) s: both must be above zero", r"需要 \1 卡、\2 秒：二者都必须大于零"),
    (
        r"draws (\d+) W with all else idle, for (\S+) s: the caps, (\d+) W at most, never leave it that",
        r"在其余全部空闲时需 \1 W，持续 \2 秒：功率上限至多 \3 W，从不足够",
    ),
    (rf"may not be preempted, and pool {_NAME} only lends", r"不可抢占，而池 `\1` 只出借"),
    (
        rf"saves for (\S+) s, and pool {_NAME} asks back within (\S+) s",
        r"保存需 \1 秒，而池 `\2` 在 \3 秒内收回",
    ),
    (rf"needs (\d+) nodes, and pool {_NAME} never lends more than (\d+)", r"需要 \1 个节点，而池 `\2` 至多出借 \3 个"),
)
"""What is said of a job."""
_OF_POOLS: Final[tuple[tuple[str, str], ...]] = (
    (r"is not among the pools it names", r"不在其指定的池中"),
    (r"has no (\S+)", r"不支持 \1"),
    (r"has (\d+) devices", r"只有 \1 卡"),
    (
        r"has (\d+) nodes to a (\w+) beside its spares, and it needs (\d+) in one",
        r"除备用外每{}有 \1 个节点，需要同在一处的 \3 个",
    ),
    (r"has (\d+) nodes to a (\w+), and it needs (\d+) in one", r"每{}有 \1 个节点，需要同在一处的 \3 个"),
    (r"keeps spares", r"须保留备用节点"),
)
"""What is said of a pool."""
_POOLS: Final = re.compile(r"asks for (-?\d+) devices: (pool `.*)")
_POOL: Final = re.compile(rf"pool {_NAME} (.*)")


def refusal(reason: str, language: Language) -> str:
    """A refusal's reason, with the job's name before it or without; one that is not known stays as it is."""
    if language == "en":
        return reason
    job, rest = _job(reason)
    said = [_clause(part) for part in rest.split("; it ")]
    return reason if None in said else job + "；且其".join(one for one in said if one is not None)


def _job(reason: str) -> tuple[str, str]:
    """`作业 <name> `, and what is said of it: names may have spaces in them."""
    found = re.match(r"job (.*?) (?=(?:asks for|draws|may not|saves for|needs) )", reason)
    return ("", reason) if found is None else (f"作业 {found[1]} ", reason[found.end() :])


def _clause(text: str) -> str | None:
    if said := by_pattern(text, _WHOLE):
        return said
    found = _POOLS.fullmatch(text)
    if found is None:
        return None
    pools = [_pool(part) for part in found[2].split("; ")]
    return None if None in pools else f"需要 {found[1]} 卡：" + "；".join(one for one in pools if one is not None)


def _pool(text: str) -> str | None:
    named = _POOL.fullmatch(text)
    for pattern, chinese in _OF_POOLS if named is not None else ():
        if named is not None and (found := re.fullmatch(pattern, named[2])):
            domain = _DOMAINS.get(found[2], found[2]) if "{}" in chinese else ""
            return f"池 `{named[1]}` {found.expand(chinese.format(domain))}"
    return None
