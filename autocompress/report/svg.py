"""How every picture for documents is drawn and written: one style, and the same bytes from the same data."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from autocompress.record import write_atomically

STYLE: dict[str, object] = {
    "svg.hashsalt": "autocompress",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_svg(draw: Callable[[], Figure], path: Path) -> None:
    """Write what `draw` returns as an SVG file, replaced in one step; `draw` is called with the style in force."""
    write_atomically(path, svg_text(draw))


def svg_text(draw: Callable[[], Figure]) -> str:
    """What `draw` returns as the text of an SVG file; `draw` is called with the style in force."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        figure = draw()
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": "autocompress"})
    return stream.getvalue()
