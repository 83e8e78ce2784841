"""What the command line shows: the live view of a search, tables and summaries."""

from autocompress.report.wording import threads_words
from autocompress.terminal.choosing import ChoiceView
from autocompress.terminal.comparison import print_comparison, print_throughput
from autocompress.terminal.explanation import print_explanation
from autocompress.terminal.live import SearchView, TrainingLine, sparkline
from autocompress.terminal.models import gains, layer_bars, print_environment, print_graph, print_spaces
from autocompress.terminal.processor import ProbeView, print_probe
from autocompress.terminal.results import (
    candidate_line,
    print_choice,
    print_measurement,
    print_statistics,
    print_summary,
    print_verification,
)
from autocompress.terminal.sensitivity import SensitivityView, heat_cells, print_sensitivity

__all__ = [
    "ChoiceView",
    "ProbeView",
    "SearchView",
    "SensitivityView",
    "TrainingLine",
    "candidate_line",
    "gains",
    "heat_cells",
    "layer_bars",
    "print_choice",
    "print_verification",
    "print_comparison",
    "print_environment",
    "print_explanation",
    "print_graph",
    "print_measurement",
    "print_probe",
    "print_sensitivity",
    "print_spaces",
    "print_statistics",
    "print_summary",
    "print_throughput",
    "sparkline",
    "threads_words",
]
