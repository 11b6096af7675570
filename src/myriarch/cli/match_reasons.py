"""Why a job got what it got, in a person's language: from the numbers of a `Decision`, not from its English text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from myriarch.cli.match_words import term
from myriarch.cli.report_words import Language, by_pattern
from myriarch.schedule.broker_result import Decision, Miss, Quote
from myriarch.units import format_bytes, format_s

FORMS: Final[dict[str, Callable[[float], str]]] = {"time": format_s, "memory": format_bytes}
"""Needs that are no mere numbers."""
NOTES_ZH: Final = (
    (r"carbon of (.*) is unknown; it counts as nothing there", r"\1 的碳排放未知，在比价中不计"),
    (
        r"(\d+) possible starts are too many for one program; each job was placed as it came",
        r"可能的开始时刻有 \1 个，超出一个整数规划所能及；各作业按到达顺序安排",
    ),
)


def reason(decision: Decision, *, currency: str, language: Language) -> str:
    """Of a whole decision. In English it is the broker's own sentence."""
    if language == "en":
        return decision.reason
    return _why(decision, currency) if decision.award is not None else _why_not(decision)


def miss(lacking: Miss, *, language: Language) -> str:
    """One need that a pool does not meet."""
    if language == "en":
        return lacking.text
    name = term(f"need_{lacking.need}", language)
    if lacking.need == "precision":
        return f"{name}：{lacking.text.partition(':')[0]}"
    if lacking.wanted is None:
        return name
    shown = FORMS.get(lacking.need, "{:.6g}".format)
    if lacking.had is None:
        return f"{name}：需要 {shown(lacking.wanted)}"
    return f"{name}：需要 {shown(lacking.wanted)}，只有 {shown(lacking.had)}"


def note(text: str, *, language: Language) -> str:
    """What was not known or not proven of a whole market; what is not known here stays as it is."""
    if language == "en":
        return text
    said = by_pattern(text, NOTES_ZH)
    return text if said is None else said


def _why(decision: Decision, currency: str) -> str:
    award = decision.award
    assert award is not None
    said = [f"比价 {award.price.compared:.6g} {currency}"]
    if award.voucher is not None:
        said.append(f"算力券 {award.voucher} 抵 {award.price.voucher:.6g}")
    mine = {part.offer for part in award.parts}
    following = next((each for each in decision.quotes if each.offer not in mine and each.extra is not None), None)
    said.append(_following(following))
    own = [each for each in decision.quotes if {each.offer} == mine and each.alone is not None]
    if own and own[0].alone is not None and own[0].alone < award.price.compared - 1e-6 * abs(award.price.compared):
        said.append(f"若独用该池只需 {own[0].alone:.6g}")
    return "；".join(said)


def _following(quote: Quote | None) -> str:
    return "其他池均不可用" if quote is None else f"次优 {quote.offer}，多付 {quote.extra:+.6g}"


def _why_not(decision: Decision) -> str:
    if any(quote.free is not None for quote in decision.quotes):
        return "让位给优先级更高或数量更多的作业"
    if any(quote.alone is not None for quote in decision.quotes):
        return "合适的时段都被其他作业占用"
    nearest = next((quote for quote in decision.quotes if quote.offer == decision.nearest), None)
    if nearest is None:
        return "没有算力池"
    return f"没有合适的池；最接近的是 {nearest.offer}：" + "；".join(
        miss(each, language="zh") for each in nearest.misses
    )
