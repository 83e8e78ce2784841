"""The statistics of a compressed model as a table for a terminal, in kB and percent."""

from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from autocompress.report.wording import bit_width, kilobytes, percent

_WORDS = ("layer", "zeros", "filters", "rank", "bits", "parameters", "MACs", "kB stored")
_LONG_NAME = 24  # characters; names up to here stay on one line on a narrow terminal


def statistics_table(frame: pd.DataFrame) -> Table:
    """What compression left of each layer, a row a layer, the total last.

    Filters, parameters, MACs and bytes that changed are shown as `before → now`; bits as weights / inputs. The bytes
    are those in `model.bin`. Columns without an entry are left out.

    Args:
        frame: Of `statistics`: columns layer, sparsity, filters, filters_kept, rank, weight_bits, activation_bits, and
            n_parameters, macs, size_bytes with their `_before`.
    """
    rows = [_cells(row) for row in frame.to_dict("records")]
    title = "what compression left of each layer (before → now)"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    kept = [i for i, _ in enumerate(_WORDS) if any(cells[i] for cells in rows)]
    table.add_column("layer", overflow="fold", no_wrap=all(len(cells[0]) <= _LONG_NAME for cells in rows))
    for i in kept[1:]:
        table.add_column(_WORDS[i], justify="right", overflow="fold")
    for number, cells in enumerate(rows, start=1):
        table.add_row(*(Text(cells[i]) for i in kept), end_section=number == len(rows) - 1)
    return table


def short_count(n: float) -> str:
    """A count in three digits or so, with k, M or G for a thousand, a million or 10^9.

    >>> short_count(288), short_count(9216), short_count(52_466_560), short_count(999_960)
    ('288', '9.2k', '52.5M', '1.0M')
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.99995 * size:
            return f"{n / size:.1f}{unit}"
    return f"{n:.0f}"


def _cells(row: dict[Any, Any]) -> list[str]:
    return [
        row["layer"],
        percent(row["sparsity"]) if row["sparsity"] > 0 else "",
        "" if pd.isna(row["filters_kept"]) else _change(f"{row['filters']:,}", f"{row['filters_kept']:,}"),
        row["rank"],
        _bits(row["weight_bits"], row["activation_bits"]),
        _change(short_count(row["n_parameters_before"]), short_count(row["n_parameters"])),
        _change(short_count(row["macs_before"]), short_count(row["macs"])),
        _change(_short_size(row["size_bytes_before"]), _short_size(row["size_bytes"])),
    ]


def _short_size(size_bytes: float) -> str:
    """In kB, with a decimal below 100 of them.

    >>> _short_size(36_864), _short_size(1_596_216)
    ('36.9', '1,596')
    """
    return kilobytes(size_bytes) if size_bytes < 99_950 else f"{size_bytes / 1000:,.0f}"


def _bits(weight_bits: Any, activation_bits: Any) -> str:
    """`8 / 8`, `4 / float`, `float`; empty where there are no bits."""
    if pd.isna(weight_bits):
        return ""
    both = [bit_width(int(bits)) for bits in (weight_bits, activation_bits)]
    return both[0] if both[0] == both[1] == "float" else " / ".join(both)


def _change(before: str, now: str) -> str:
    return now if before == now else f"{before} → {now}"
