"""How candidates show themselves in a notebook: a picture as inline SVG and a table, without a script or a request."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from autocompress.measurement import Interval, Measurement

Kind = Literal["baseline", "anchor", "candidate"]
WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 44  # margins of the axes
MAX_ROWS = 20
COLOURS: dict[Kind, str] = {"baseline": "#777777", "anchor": "#D55E00", "candidate": "#0072B2"}  # Okabe and Ito 2008
CHOSEN_COLOUR, FLOOR_COLOUR = "#009E73", "#A0522D"
EDGE_FLOORS = 6.0  # drops beyond so many floors are drawn at the edge
_N_TICKS = 6
_CELL = 'style="text-align:left;padding:2px 8px;white-space:nowrap"'


@dataclass(frozen=True)
class Shown:
    """A measured candidate as it is shown.

    Attributes:
        name: Plain text, which is escaped here.
        measurement: Its numbers.
        kind: `baseline` for FP32, `anchor` for a named recipe, else `candidate`.
        rung: How far it was trained.
        on_front: Whether it is on the front.
        is_chosen: Whether it is the choice of a study.
    """

    name: str
    measurement: Measurement
    kind: Kind
    rung: str
    on_front: bool = True
    is_chosen: bool = False

    @property
    def words(self) -> str:
        """Name and numbers in one line."""
        m = self.measurement
        speed, drop = speed_words(m), drop_words(m.whole_drop)
        return f"{self.name}: {speed} faster, drop {drop} points, {m.latency_ms:.3f} ms, {m.size_bytes / 1000:.1f} kB"


def speed_words(m: Measurement) -> str:
    """Such as `2.00x [1.90, 2.10]`."""
    return f"{m.speedup.value:.2f}x [{m.speedup.low:.2f}, {m.speedup.high:.2f}]"


def drop_words(drop: Interval) -> str:
    """In points, such as `0.50 [-0.10, 1.10]`."""
    return f"{100 * drop.value:.2f} [{100 * drop.low:.2f}, {100 * drop.high:.2f}]"


def front_html(shown: Sequence[Shown], max_drop: float | None = None) -> str:
    """The picture, and a table of those on the front.

    Args:
        shown: Measured candidates, in the order of the table.
        max_drop: The accuracy floor as a line, in units of the score; None for no line.
    """
    return f"{front_svg(shown, max_drop)}{front_table([one for one in shown if one.on_front])}"


def front_svg(shown: Sequence[Shown], max_drop: float | None = None) -> str:
    """Speed-up against drop with the intervals of both, as an `svg` element; a browser's tooltips name the points.

    Drops that lie beyond six floors are drawn as triangles at the edge.
    """
    axes = _Axes.around(shown, max_drop)
    label = f"{len(shown)} candidates, speed-up over FP32 against accuracy drop in points"
    parts = [
        *axes.lines(),
        *axes.floor(max_drop),
        *(part for one in sorted(shown, key=_layer) for part in axes.mark(one)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        f'style="max-width:{WIDTH}px;width:100%;font:12px sans-serif" fill="currentColor">{"".join(parts)}</svg>'
    )


def front_table(shown: Sequence[Shown]) -> str:
    """A `table` element with a row a candidate, at most `MAX_ROWS`."""
    rows = [_row(one) for one in shown[:MAX_ROWS]]
    heads = ("candidate", "speed-up", "drop, points", "latency, ms", "size, kB", "training")
    more = f"<p>and {len(shown) - MAX_ROWS} more; <code>frame()</code> has all</p>" if len(shown) > MAX_ROWS else ""
    return table_html(heads, rows) + more


def table_html(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A `table` element of plain texts, which are escaped."""
    head = "".join(f'<th scope="col" {_CELL}>{escape(text)}</th>' for text in heads)
    body = "".join("<tr>" + "".join(f"<td {_CELL}>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def candidate_html(
    name: str, rung: str, n_steps: int, measurement: Measurement | None, failure: str | None, recipe: str
) -> str:
    """One candidate: its numbers with intervals, or why it failed, and its recipe to be opened.

    Args:
        name: Plain text, as all others.
        rung: How far it was trained.
        n_steps: Training steps.
        measurement: None for one that failed.
        failure: The reason then.
        recipe: As YAML.
    """
    if measurement is None:
        about = f"<p>failed: {escape(failure or '')}</p>"
    else:
        m = measurement
        rows = [
            ("speed-up over FP32", f"{speed_words(m)}, 95 % interval"),
            ("accuracy drop", f"{drop_words(m.whole_drop)} points, 90 % interval"),
            ("score", f"{m.accuracy:.4f} on {m.n_samples} samples"),
            ("latency", f"{m.latency_ms:.3f} ms"),
            ("size", f"{m.size_bytes} bytes"),
            ("training", f"{rung}, {n_steps} steps"),
        ]
        about = table_html(("what", "value"), rows)
    opened = f"<details><summary>recipe</summary><pre>{escape(recipe)}</pre></details>"
    return f"<div><p><b>{escape(name)}</b></p>{about}{opened}</div>"


def _layer(one: Shown) -> tuple[bool, bool]:
    """What is drawn later lies above."""
    return one.on_front, one.is_chosen


def _row(one: Shown) -> tuple[str, ...]:
    m = one.measurement
    name = f"{one.name} (chosen)" if one.is_chosen else one.name
    numbers = speed_words(m), drop_words(m.whole_drop), f"{m.latency_ms:.3f}", f"{m.size_bytes / 1000:.1f}"
    return name, *numbers, one.rung


@dataclass(frozen=True)
class _Axes:
    """Limits of the picture: speed-ups to the right, drops in points downwards; `edge` is the largest drop shown."""

    slow: float
    fast: float
    best: float
    worst: float
    edge: float

    @classmethod
    def around(cls, shown: Sequence[Shown], max_drop: float | None) -> "_Axes":
        edge = 100 * EDGE_FLOORS * max_drop if max_drop else math.inf
        speeds = [end for one in shown for end in (one.measurement.speedup.low, one.measurement.speedup.high)] or [1.0]
        drops = [one.measurement.whole_drop for one in shown if 100 * one.measurement.whole_drop.value <= edge]
        ends = [0.0, 100 * (max_drop or 0.0), *(100 * end for drop in drops for end in (drop.low, drop.high))]
        x_margin, y_margin = 0.06 * max(max(speeds) - min(speeds), 0.5), 0.08 * max(max(ends) - min(ends), 0.1)
        worst = max(ends) if math.isinf(edge) or len(drops) == len(shown) else edge
        return cls(
            min(speeds) - x_margin, max(speeds) + x_margin, min(ends) - y_margin, max(worst, *ends) + y_margin, worst
        )

    def x(self, speed: float) -> float:
        return LEFT + (speed - self.slow) / (self.fast - self.slow) * (WIDTH - LEFT - RIGHT)

    def y(self, drop: float) -> float:
        return TOP + (drop - self.best) / (self.worst - self.best) * (HEIGHT - TOP - BOTTOM)

    def lines(self) -> list[str]:
        """Both axes with their ticks and names."""
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        parts = []
        for tick in _ticks(self.slow, self.fast):
            at = self.x(tick)
            parts.append(_line(at, TOP, at, bottom, "currentColor", 0.12))
            parts.append(f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}x</text>')
        for tick in _ticks(self.best, self.worst):
            at = self.y(tick)
            parts.append(_line(LEFT, at, right, at, "currentColor", 0.12))
            parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick:g}</text>')
        middle, height = (LEFT + right) / 2, (TOP + bottom) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">speed-up over FP32</text>')
        turned = f'transform="rotate(-90 14 {height})"'
        return [*parts, f'<text x="14" y="{height}" text-anchor="middle" {turned}>drop, points (up is better)</text>']

    def floor(self, max_drop: float | None) -> list[str]:
        """The accuracy floor as a line with its name."""
        if max_drop is None:
            return []
        at = self.y(100 * max_drop)
        line = _line(LEFT, at, WIDTH - RIGHT, at, FLOOR_COLOUR, 1.0, 'stroke-dasharray="5 3"')
        return [line, f'<text x="{LEFT + 4}" y="{at + 13:.1f}" fill="{FLOOR_COLOUR}">floor {100 * max_drop:g}</text>']

    def mark(self, one: Shown) -> list[str]:
        """Marker and intervals of one candidate, with what a tooltip says."""
        m, colour = one.measurement, COLOURS[one.kind]
        drop = 100 * m.whole_drop.value
        x, y = self.x(m.speedup.value), self.y(min(drop, self.edge))
        bars = []
        if one.on_front and drop <= self.edge:
            bars.append(_line(self.x(m.speedup.low), y, self.x(m.speedup.high), y, colour, 0.7))
            low, high = self.y(100 * m.whole_drop.low), self.y(min(100 * m.whole_drop.high, self.worst))
            bars.append(_line(x, low, x, high, colour, 0.7))
        ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="none" stroke="{CHOSEN_COLOUR}" stroke-width="2"/>'
        kind = "edge" if drop > self.edge else one.kind
        face = f'fill="{colour}"' if one.on_front else 'fill="none" opacity="0.5"'
        shape = f'<path d="{_path(kind, x, y)}" {face} stroke="{colour}"><title>{escape(one.words)}</title></path>'
        return [*bars, *([ring] if one.is_chosen else []), shape]


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, opacity: float, more: str = "") -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-opacity="{opacity}" {more}/>'


def _path(kind: str, x: float, y: float) -> str:
    """Outline of a marker: diamond, square, circle, or a triangle at the edge."""
    at = f"M{x:.1f} {y:.1f}"
    return {
        "baseline": f"{at}m0-6l6 6l-6 6l-6-6z",
        "anchor": f"{at}m-4.5-4.5h9v9h-9z",
        "candidate": f"{at}m-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
        "edge": f"{at}m-5-4h10l-5 9z",
    }[kind]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers inside the limits, at most about six.

    >>> _ticks(0.8, 4.7)
    [1.0, 2.0, 3.0, 4.0]
    """
    rough = (high - low) / _N_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
