"""The three walls as a picture: SVG text, no library, readable on light and dark pages and without colours.

Three panels over the same log axis of devices: effective compute, what each wall leaves, power. Solid lines have all
counter-measures, dashed ones none. Colours: Okabe and Ito ("Color Universal Design", 2008), which people with any kind
of colour blindness tell apart; markers differ as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple
from xml.sax.saxutils import escape

from myriarch.plan.walls import Row, Walls

Language = Literal["en", "zh"]

WORDS: Final[dict[Language, dict[str, str]]] = {
    "en": {
        "title": "{model} on {chip}: three walls",
        "devices": "devices",
        "effective": "effective compute, % of peak",
        "left": "what each wall leaves, %",
        "power": "site power, MW",
        "all": "all counter-measures",
        "plain": "none",
        "energy": "energy",
        "reliability": "reliability",
        "parallelism": "parallelism",
        "limit": "limit {limit} MW",
    },
    "zh": {
        "title": "{chip} 上的 {model}：三堵墙",
        "devices": "卡数",
        "effective": "有效算力（占峰值 %）",
        "left": "各堵墙之后所剩（%）",
        "power": "站点功率（MW）",
        "all": "全部对策",
        "plain": "无对策",
        "energy": "能耗",
        "reliability": "可靠性",
        "parallelism": "并行",
        "limit": "上限 {limit} MW",
    },
}
COLOURS: Final = {
    "effective": "#0072B2",
    "energy": "#E69F00",
    "reliability": "#D55E00",
    "parallelism": "#009E73",
    "power": "#CC79A7",
}
NEUTRAL: Final = "#808080"
"""Text and axes: enough contrast on white and on black."""
MARKERS: Final = {"effective": "circle", "energy": "square", "reliability": "diamond", "parallelism": "triangle"}

WIDTH: Final = 760
PANEL_HEIGHT: Final = 190
LEFT, RIGHT, TOP, GAP, BOTTOM = 64, 176, 44, 46, 48


class Line(NamedTuple):
    """One curve. A point whose y is None is left out, and the line breaks there."""

    label: str
    kind: str
    points: Sequence[tuple[float, float | None]]
    dashed: bool = False


class Panel(NamedTuple):
    title: str
    lines: Sequence[Line]
    top: float
    """Value at the upper edge; the lower edge is 0."""
    limit: tuple[float, str] | None = None
    """A level with its name."""


def walls_svg(walls: Walls, *, language: Language = "en") -> str:
    """The picture as one `<svg>` element."""
    words = WORDS[language]
    panels = _panels(walls.rows, words)
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP) - GAP + BOTTOM
    counts = [row.devices for row in walls.rows]
    axis = _Axis(min(counts), max(counts))
    title = words["title"].format(model=walls.model, chip=walls.chip)
    box = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" font-family="system-ui, sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600" fill="{NEUTRAL}">{escape(title)}</text>',
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, axis, counts, upper=TOP + index * (PANEL_HEIGHT + GAP))
    parts.append(_text(_middle(), height - 10, words["devices"], anchor="middle"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _panels(rows: Sequence[Row], words: dict[str, str]) -> tuple[Panel, ...]:
    def line(kind: str, label: str, values: Sequence[float | None], *, dashed: bool = False) -> Line:
        return Line(label, kind, [(row.devices, value) for row, value in zip(rows, values, strict=True)], dashed)

    effective = (
        line("effective", words["all"], [100 * row.effective for row in rows]),
        line("effective", words["plain"], [100 * row.effective_plain for row in rows], dashed=True),
    )
    left = (
        line("energy", words["energy"], [100 * row.energy.powered for row in rows]),
        line("reliability", words["reliability"], [100 * row.reliability.kept for row in rows]),
        line("parallelism", words["parallelism"], [100 * row.parallelism.efficiency for row in rows]),
        line("reliability", "", [100 * row.reliability.kept_plain for row in rows], dashed=True),
        line("parallelism", "", [100 * row.parallelism.efficiency_plain for row in rows], dashed=True),
    )
    power = [row.energy.power_w / 1e6 for row in rows]
    limit_w = rows[0].energy.limit_w
    limit = None if limit_w is None else (limit_w / 1e6, words["limit"].format(limit=f"{limit_w / 1e6:g}"))
    return (
        Panel(words["effective"], effective, _round_up(max(y or 0.0 for each in effective for _, y in each.points))),
        Panel(words["left"], left, 100.0),
        Panel(words["power"], (line("power", "", power),), _round_up(max(power)), limit),
    )


class _Axis:
    """Devices, logarithmic, over the width of a panel."""

    def __init__(self, first: int, last: int) -> None:
        self.low, self.high = math.log(first), math.log(last)

    def x(self, devices: float) -> float:
        span = self.high - self.low
        share = (math.log(devices) - self.low) / span if span else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)


def _panel(panel: Panel, axis: _Axis, counts: Sequence[int], *, upper: float) -> list[str]:
    lower = upper + PANEL_HEIGHT

    def y(value: float) -> float:
        return lower - min(value / panel.top, 1.0) * PANEL_HEIGHT

    parts = [_text(LEFT, upper - 8, panel.title)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        level = y(share * panel.top)
        parts.append(_rule(LEFT, level, WIDTH - RIGHT, level, opacity=0.25))
        parts.append(_text(LEFT - 6, level + 4, f"{share * panel.top:g}", anchor="end"))
    for count in counts:
        parts.append(_rule(axis.x(count), lower, axis.x(count), lower + 4))
        parts.append(_text(axis.x(count), lower + 17, _short(count), anchor="middle"))
    if panel.limit is not None and panel.limit[0] <= panel.top:
        parts.append(_rule(LEFT, y(panel.limit[0]), WIDTH - RIGHT, y(panel.limit[0]), dash="2 3"))
        parts.append(_text(WIDTH - RIGHT + 8, y(panel.limit[0]) + 4, panel.limit[1]))
    for line in panel.lines:
        parts += _curve(line, [(axis.x(x), None if value is None else y(value)) for x, value in line.points])
    return parts + _legend(panel.lines, [y(_last(line)) for line in panel.lines])


def _curve(line: Line, points: Sequence[tuple[float, float | None]]) -> list[str]:
    colour = COLOURS[line.kind]
    path, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    dash = ' stroke-dasharray="6 4"' if line.dashed else ""
    drawn = [f'<path d="{" ".join(path)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>']
    return drawn + [_marker(line.kind, x, y, hollow=line.dashed) for x, y in points if y is not None]


def _legend(lines: Sequence[Line], heights: Sequence[float]) -> list[str]:
    """Names at the right ends of their lines, pushed apart where they would overlap."""
    named = sorted((height, index) for index, height in enumerate(heights) if lines[index].label)
    parts, free = [], -math.inf
    for height, index in named:
        line = lines[index]
        free = max(height + 4, free + 15)
        parts.append(_marker(line.kind, WIDTH - RIGHT + 14, free - 4, hollow=line.dashed))
        parts.append(_text(WIDTH - RIGHT + 24, free, line.label, colour=COLOURS[line.kind]))
    return parts


def _last(line: Line) -> float:
    return next((value for _, value in reversed(line.points) if value is not None), 0.0)


def _marker(kind: str, x: float, y: float, *, hollow: bool) -> str:
    colour = COLOURS[kind]
    style = f'fill="{"none" if hollow else colour}" stroke="{colour}" stroke-width="1.5"'
    corners = {
        "square": [(-3, -3), (3, -3), (3, 3), (-3, 3)],
        "diamond": [(0, -4), (4, 0), (0, 4), (-4, 0)],
        "triangle": [(0, -4), (4, 3), (-4, 3)],
    }.get(MARKERS.get(kind, "circle"))
    if corners is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {style}/>'
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{path}" {style}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = NEUTRAL) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, *, opacity: float = 1.0, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{NEUTRAL}" '
        f'stroke-opacity="{opacity:g}"{dashed}/>'
    )


def _middle() -> float:
    return (LEFT + WIDTH - RIGHT) / 2


def _short(count: int) -> str:
    """1,024 as it is; 98,304 as 98k: labels must not touch."""
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k"


def _round_up(value: float) -> float:
    """A number not below `value` whose quarters are short: 1, 1.2, 1.6, 2, 4, 6 or 8 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.2, 1.6, 2, 4, 6, 8, 10) if factor * power >= value * (1 - 1e-9))
