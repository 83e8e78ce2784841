"""Names beside the points of a picture, each where it covers the least."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DISTANCES = (8.0, 16.0, 28.0, 44.0, 64.0)
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
LEADER_FROM = 28.0
FONT_SIZE = 9
PADDING = 2.0


class Box(NamedTuple):
    """A rectangle on the canvas, in pixels of the figure."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Area that both cover, pixels squared."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(0.0, width) * max(0.0, height)

    @property
    def area(self) -> float:
        """Pixels squared."""
        return (self.right - self.left) * (self.top - self.bottom)


def place_names(figure: Figure, axes: Axes, names: Sequence[tuple[float, float, str]], taken: Iterable[Box]) -> None:
    """Write each name near its point, at the first place of least overlap with `taken` and with the names before it.

    Args:
        figure: At 72 dots an inch, so that a pixel is a point.
        axes: Where to write; its limits must be final.
        names: x and y in data units, and the text.
        taken: What should stay visible, on the canvas.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    frame = Box(*axes.get_window_extent(renderer).extents)
    covered = list(taken)
    for x, y, text in names:
        sample = axes.text(x, y, text, fontsize=FONT_SIZE)
        size = sample.get_window_extent(renderer)
        sample.remove()
        at = tuple(axes.transData.transform((x, y)))
        places = [
            _place(at, size.width + 2 * PADDING, size.height + 2 * PADDING, far, way)
            for far in DISTANCES
            for way in DIRECTIONS
        ]
        box, distance = min(places, key=lambda place: _cost(place[0], covered, frame))
        covered.append(box)
        shift = ((box.left + box.right) / 2 - at[0], (box.bottom + box.top) / 2 - at[1])
        _write(axes, text, (x, y), shift, with_leader=distance >= LEADER_FROM)


def _place(at: Sequence[float], width: float, height: float, far: float, way: tuple[int, int]) -> tuple[Box, float]:
    reach = far if 0 in way else 0.7 * far
    x = at[0] + way[0] * (width / 2 + reach)
    y = at[1] + way[1] * (height / 2 + reach)
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2), far


def _cost(box: Box, covered: Iterable[Box], frame: Box) -> float:
    outside = box.area - box.overlap(frame)
    return 10 * outside + sum(box.overlap(other) for other in covered)


def _write(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], with_leader: bool) -> None:
    side = (0.0 if shift[0] > 0 else 1.0, 0.5)  # the leader starts at the end of the text that faces the point
    leader = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4, "relpos": side}
    axes.annotate(
        text,
        at,
        xytext=shift,
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=FONT_SIZE,
        zorder=9,
        arrowprops=leader if with_leader else None,
    )
