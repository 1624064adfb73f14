"""A simulation drawn as SVG: regret, cost, reward and shares over time, readable on light and dark."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

from attune.cli._exit import plain
from attune.models.study import Estimate, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from attune.models.study import Contender, Trace

__all__ = ["picture"]

WIDTH, HEIGHT = 960, 720
PANEL_WIDTH, PANEL_HEIGHT = 390, 215
LEFT, RIGHT, TOP, BOTTOM = 64, 544, 106, 400
WINDOW = 10
"""Rewards and costs are means over this part of the stream: one in so many."""
LOGARITHMIC_FROM = 15.0
"""Costs that differ by this factor are drawn on a logarithmic scale."""
MAX_MODELS_SHOWN = 7
MAX_LABEL_CHARS = 26
DECIMALS = 1

STYLE = """
  text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #59636e; }
  .title { font-size: 17px; font-weight: 600; fill: #1f2328; }
  .head { font-size: 13px; font-weight: 600; fill: #1f2328; }
  .paper { fill: #ffffff; } .grid { stroke: #d8dee4; }
  .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
  .policy { stroke: #0b62d6; stroke-width: 2.6; } .band { fill: #0b62d6; opacity: .18; }
  .baseline { stroke: #bc5a00; }
  .best { stroke: #1f2328; stroke-dasharray: 2 3; }
  .hull { stroke: #8a3ffc; stroke-dasharray: 7 4; }
  .clairvoyant { stroke: #14803c; stroke-dasharray: 9 3 2 3; }
  .budget { stroke: #c93c37; stroke-dasharray: 4 4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1; } .title, .head { fill: #e6edf3; }
    .paper { fill: #0d1117; } .grid { stroke: #30363d; }
    .policy { stroke: #58a6ff; } .band { fill: #58a6ff; }
    .baseline { stroke: #f0883e; } .best { stroke: #e6edf3; } .hull { stroke: #be95ff; }
    .clairvoyant { stroke: #3fb950; } .budget { stroke: #f47067; }
  }
"""
SHARE_COLOURS = ("#3b82c4", "#e0a030", "#4fa36c", "#b65fa8", "#d9694f", "#6f6fc9", "#8c8c8c")

_CAPTION = "The band is the 95 % interval over the orders."


class Line(NamedTuple):
    """A line of a panel: a value at each place of the stream, with its interval if there is one."""

    style: str
    values: Sequence[float]
    band: Sequence[tuple[float, float]] = ()


def picture(contenders: Sequence[Contender], budget: float | None, title: str) -> str:
    """The whole picture as SVG; the first contender is the policy."""
    policy = contenders[0]
    kinds = {kind: next(each for each in contenders if each.kind is kind) for kind in Kind}
    best = min(
        (each for each in contenders if each.kind is Kind.SINGLE),
        key=lambda each: (abs(each.whole.above_single.mean), each.whole.cost.mean),
    )
    kinds[Kind.SINGLE] = best
    count = sum(policy.traces[0].calls)
    body = [
        f'<text class="title" x="{LEFT - 40}" y="34">{_text(title)}</text>',
        *_legend(policy.name, kinds, budget),
        *Panel(LEFT, TOP, "Regret to the best single model, in sum", count).draw(_regrets(kinds)),
        *Panel(RIGHT, TOP, "USD a call, over the last tenth of the calls", count, costs=True).draw(
            _costs(kinds, budget)
        ),
        *Panel(LEFT, BOTTOM, "Reward a call, over the last tenth of the calls", count).draw(_rewards(kinds)),
        *_shares(Panel(RIGHT, BOTTOM, f"Shares of the calls of {policy.name}", count), policy.traces),
        f'<text x="{LEFT - 40}" y="{HEIGHT - 14}">{_CAPTION}</text>',
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{_text(title)}">\n<style>{STYLE}</style>\n'
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


# -- what is drawn ---------------------------------------------------------------------------------------


def _regrets(kinds: dict[Kind, Contender]) -> list[Line]:
    places = len(kinds[Kind.POLICY].traces[0].calls)
    known = [
        Line(style, _ramp(kinds[kind].whole.regret_single.mean, places))
        for style, kind in (("clairvoyant", Kind.CLAIRVOYANT), ("hull", Kind.HULL), ("best", Kind.SINGLE))
    ]
    return [
        *known,
        _line("baseline", kinds[Kind.BASELINE].traces, _regret),
        _line("policy", kinds[Kind.POLICY].traces, _regret),
    ]


def _costs(kinds: dict[Kind, Contender], budget: float | None) -> list[Line]:
    places = len(kinds[Kind.POLICY].traces[0].calls)
    limit = [] if budget is None else [Line("budget", [budget] * places)]
    return [
        *limit,
        Line("best", [kinds[Kind.SINGLE].whole.cost.mean] * places),
        _line("baseline", kinds[Kind.BASELINE].traces, lambda t: _window(t.costs, t.calls)),
        _line("policy", kinds[Kind.POLICY].traces, lambda t: _window(t.costs, t.calls)),
    ]


def _rewards(kinds: dict[Kind, Contender]) -> list[Line]:
    places = len(kinds[Kind.POLICY].traces[0].calls)
    known = [
        Line(style, [kinds[kind].whole.reward.mean] * places)
        for style, kind in (("clairvoyant", Kind.CLAIRVOYANT), ("hull", Kind.HULL), ("best", Kind.SINGLE))
    ]
    return [
        *known,
        _line("baseline", kinds[Kind.BASELINE].traces, lambda t: _window(t.rewards, t.calls)),
        _line("policy", kinds[Kind.POLICY].traces, lambda t: _window(t.rewards, t.calls)),
    ]


def _ramp(total: float, places: int) -> list[float]:
    return [total * (i + 1) / places for i in range(places)]


def _regret(trace: Trace) -> list[float]:
    return list(accumulate(best - own for best, own in zip(trace.single, trace.rewards, strict=True)))


def _window(sums: Sequence[float], calls: Sequence[int]) -> list[float]:
    """The mean a call over the last tenth of the stream at each place, or what there is of it."""
    width = max(len(sums) // WINDOW, 1)
    return [
        math.fsum(sums[max(i - width, 0) : i]) / sum(calls[max(i - width, 0) : i])
        for i in range(1, len(sums) + 1)
    ]


def _line(style: str, traces: Sequence[Trace], of: Callable[[Trace], list[float]]) -> Line:
    """The mean over the passes; of the policy with its 95 % interval."""
    estimates = [Estimate.of(values) for values in zip(*map(of, traces), strict=True)]
    band = [(e.low, e.high) for e in estimates] if style == "policy" and len(traces) > 1 else []
    return Line(style, [e.mean for e in estimates], band)


# -- how it is drawn -------------------------------------------------------------------------------------


class Panel:
    """A plot with its axes at a place of the picture, over ``count`` calls."""

    def __init__(self, x: float, y: float, head: str, count: int, *, costs: bool = False) -> None:
        self.x, self.y = x, y
        self._head = head
        self._count = count
        self._costs = costs
        self._low, self._high = 0.0, 1.0
        self._logarithmic = False

    def draw(self, lines: Sequence[Line]) -> Iterator[str]:
        """The frame scaled to the lines, then the lines."""
        self._scale_to(lines)
        yield from self.frame(self._ticks())
        for line in lines:
            if line.band:
                up = self.points([high for _, high in line.band])
                down = self.points([low for low, _ in line.band])
                yield f'<polygon class="band" points="{" ".join([*up, *reversed(down)])}"/>'
            yield f'<polyline class="line {line.style}" points="{" ".join(self.points(line.values))}"/>'

    def frame(self, ticks: Sequence[float], *, percent: bool = False) -> Iterator[str]:
        """The head, the grid and the numbers of both axes."""
        yield f'<text class="head" x="{self.x}" y="{self.y - 12}">{_text(self._head)}</text>'
        for tick in ticks:
            y = f"{self._place(tick):.{DECIMALS}f}"
            label = f"{tick:.0%}" if percent else f"{tick:.4g}"
            yield f'<line class="grid" x1="{self.x}" x2="{self.x + PANEL_WIDTH}" y1="{y}" y2="{y}"/>'
            yield f'<text x="{self.x - 7}" y="{y}" dy="4" text-anchor="end">{label}</text>'
        for tick in [t for t in _round_ticks(0, self._count, 5) if t == round(t)]:
            x = f"{self.x + PANEL_WIDTH * tick / self._count:.{DECIMALS}f}"
            label = f"{tick:,.0f}" + (" calls" if tick == 0 else "")
            yield f'<text x="{x}" y="{self.y + PANEL_HEIGHT + 17}" text-anchor="middle">{label}</text>'

    def points(self, values: Sequence[float]) -> list[str]:
        """Values over the stream, each at the end of its part, as coordinates."""
        step = PANEL_WIDTH / len(values)
        return [
            f"{self.x + step * (i + 1):.{DECIMALS}f},{self._place(value):.{DECIMALS}f}"
            for i, value in enumerate(values)
        ]

    def _scale_to(self, lines: Sequence[Line]) -> None:
        values = [value for line in lines for value in line.values]
        self._low, self._high = min(values), max(values)
        positive = [value for value in values if value > 0]
        self._logarithmic = (
            self._costs and len(positive) == len(values) and self._high > LOGARITHMIC_FROM * self._low
        )
        if self._logarithmic:
            self._low, self._high = self._low / 1.3, self._high * 1.3
            return
        room = 0.05 * (self._high - self._low) or max(abs(self._high), 1.0) * 0.05
        self._low, self._high = self._low - room, self._high + room
        if self._costs:
            self._low = 0.0

    def _ticks(self) -> list[float]:
        if not self._logarithmic:
            return _round_ticks(self._low, self._high, 6)
        decades = range(math.floor(math.log10(self._low)), math.ceil(math.log10(self._high)) + 1)
        factors = (1, 3) if len(decades) <= 4 else (1,)
        ticks = [factor * 10.0**power for power in decades for factor in factors]
        return [tick for tick in ticks if self._low <= tick <= self._high]

    def _place(self, value: float) -> float:
        """Where a value stands from the top of the picture; beyond the panel it is kept at its edge."""
        low, high = self._low, self._high
        value = min(max(value, low), high)
        if self._logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.y + PANEL_HEIGHT * (1 - (value - low) / (high - low))


def _round_ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers within the range."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _shares(panel: Panel, traces: Sequence[Trace]) -> Iterator[str]:
    """Areas on top of each other, the model with the most calls at the bottom, and their names below."""
    calls = [sum(each) for each in zip(*(trace.calls for trace in traces), strict=True)]
    drawn = _drawn_models(traces)
    yield from panel.frame([0, 0.25, 0.5, 0.75, 1], percent=True)
    floor = [0.0] * len(calls)
    for place, (name, counts) in enumerate(drawn):
        colour = SHARE_COLOURS[place % len(SHARE_COLOURS)]
        shares = [n / total for n, total in zip(_smooth(counts), _smooth(calls), strict=True)]
        roof = [a + b for a, b in zip(floor, shares, strict=True)]
        area = " ".join([*panel.points(roof), *reversed(panel.points(floor))])
        yield f'<polygon fill="{colour}" points="{area}"><title>{_text(name)}</title></polygon>'
        x, y = panel.x + (place % 2) * 200, panel.y + PANEL_HEIGHT + 40 + 17 * (place // 2)
        yield f'<rect fill="{colour}" x="{x}" y="{y - 9}" width="10" height="10" rx="2"/>'
        yield f'<text x="{x + 16}" y="{y}">{_text(_short(name))}</text>'
        floor = roof


def _drawn_models(traces: Sequence[Trace]) -> list[tuple[str, list[int]]]:
    """Each model's calls at each place over all passes, most first; beyond seven the rest is one."""
    sums: dict[str, list[int]] = {}
    for trace in traces:
        for model, counts in trace.models.items():
            before = sums.get(model, [0] * len(counts))
            sums[model] = [a + b for a, b in zip(before, counts, strict=True)]
    ordered = sorted(sums.items(), key=lambda item: -sum(item[1]))
    if len(ordered) <= MAX_MODELS_SHOWN:
        return ordered
    kept, others = ordered[: MAX_MODELS_SHOWN - 1], ordered[MAX_MODELS_SHOWN - 1 :]
    rest = [sum(each) for each in zip(*(counts for _, counts in others), strict=True)]
    return [*kept, (f"{len(others)} others", rest)]


def _smooth(counts: Sequence[int]) -> list[int]:
    """Sums over three neighbours, since a part of the stream holds few calls."""
    return [sum(counts[max(i - 1, 0) : i + 2]) for i in range(len(counts))]


def _legend(policy: str, kinds: dict[Kind, Contender], budget: float | None) -> Iterator[str]:
    names = [
        ("policy", policy),
        ("baseline", kinds[Kind.BASELINE].name),
        ("best", kinds[Kind.SINGLE].name),
        ("hull", "static hull, same spend"),
        ("clairvoyant", "clairvoyant per key"),
    ]
    x, y = LEFT - 40.0, 58
    for style, name in [*names, *([] if budget is None else [("budget", "the budget")])]:
        label = f"best model: {_short(name.removeprefix('always '))}" if style == "best" else name
        width = 30 + 6.6 * len(label)
        if x + width > WIDTH:
            x, y = LEFT - 40.0, y + 19
        yield f'<line class="line {style}" x1="{x:.0f}" x2="{x + 24:.0f}" y1="{y}" y2="{y}"/>'
        yield f'<text x="{x + 30:.0f}" y="{y + 4}">{_text(label)}</text>'
        x += width + 20


def _short(model: str) -> str:
    """The name without its provider, cut in the middle: versions stand at the end."""
    name = model.rpartition("/")[2] or model
    half = MAX_LABEL_CHARS // 2
    return name if len(name) <= MAX_LABEL_CHARS else f"{name[: half - 1]}…{name[-half:]}"


def _text(text: str) -> str:
    """A text as XML may hold it: no control characters, no marks."""
    return escape(plain(text), {'"': "&quot;"})
