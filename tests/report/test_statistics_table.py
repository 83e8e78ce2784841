"""The statistics of a compressed model as a table for a terminal."""

import io
import re
from typing import Any

import pandas as pd
from rich.console import Console

from autocompress.report import statistics_table


def row(layer: str, **changes: Any) -> dict[str, Any]:
    """A float convolution to which nothing was done."""
    usual: dict[str, Any] = {"layer": layer, "kind": "Conv2d", "sparsity": 0.0, "filters": 32, "filters_kept": 32}
    usual |= {"rank": "", "weight_bits": 32, "activation_bits": 32, "n_parameters_before": 1000, "n_parameters": 1000}
    usual |= {"macs_before": 5_000_000, "macs": 5_000_000, "size_bytes_before": 4000, "size_bytes": 4000}
    return usual | changes


def printed(*rows: dict[str, Any], width: int = 160) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(statistics_table(pd.DataFrame(rows)))
    return file.getvalue()


def cells_of(*rows: dict[str, Any]) -> list[list[str]]:
    """Texts of the printed table, the head first; those without a text are not there."""
    lines = [line.strip() for line in printed(*rows).splitlines()[1:]]
    return [re.split(r"\s{2,}", line) for line in lines if line.strip(" ─╶╴")]


def test_what_changed_is_shown_as_before_and_now() -> None:
    changed = row("conv", filters_kept=16, n_parameters=400, macs=2_000_000, size_bytes=500, weight_bits=8)
    expected = ["conv", "32 → 16", "8 / float", "1.0k → 400", "5.0M → 2.0M", "4.0 → 0.5"]
    assert cells_of(changed)[1] == expected


def test_columns_without_an_entry_are_left_out() -> None:
    head, cells = cells_of(row("conv"))
    assert head == ["layer", "filters", "bits", "parameters", "MACs", "kB stored"]
    assert cells == ["conv", "32", "float", "1.0k", "5.0M", "4.0"]


def test_zeros_and_ranks_have_their_columns() -> None:
    head, first, second = cells_of(row("conv", sparsity=0.7), row("fc", rank="16 of 64"))
    assert head[1:4] == ["zeros", "filters", "rank"]
    assert (first[1:3], second[1:3]) == (["70 %", "32"], ["32", "16 of 64"])


def test_missing_numbers_are_empty_cells() -> None:
    missing = dict.fromkeys(("filters", "filters_kept", "weight_bits", "activation_bits"), pd.NA)
    assert cells_of(row("conv"), row("other", sparsity=float("nan"), **missing))[2] == ["other", "1.0k", "5.0M", "4.0"]


def test_a_name_with_brackets_is_shown_as_it_is() -> None:
    assert cells_of(row("[bold]conv[/bold]"))[1][0] == "[bold]conv[/bold]"


def test_on_a_narrow_terminal_no_digit_is_lost() -> None:
    wide = row("stage2.0.shortcut.conv.0", sparsity=0.75, filters_kept=16, rank="16 x 32 of 64 x 128", macs=2_000_000)
    text = printed(wide, row("total", n_parameters=400), width=80)
    assert max(map(len, text.splitlines())) <= 80
    words = text.split()
    for word in ("stage2.0.shortcut.conv.0", "75", "16", "128", "5.0M", "2.0M", "400", "4.0"):
        assert word in words
