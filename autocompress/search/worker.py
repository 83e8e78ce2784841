"""One process for the work of all trials: if it crashes or hangs, a candidate fails and the study goes on."""

from collections.abc import Callable

import torch

from autocompress.processes import WorkProcess
from autocompress.search.context import EvaluationContext


class Worker(WorkProcess[EvaluationContext]):
    """Runs functions of `evaluate` in a process that has the study's context.

    Args:
        context: Pickled once, when the process starts.
        on_wait: Called about four times a second while work is under way; `KeyboardInterrupt` from it ends the work.
    """

    def __init__(self, context: EvaluationContext, on_wait: Callable[[], None] = lambda: None) -> None:
        super().__init__(context, _set_threads, "its process", on_wait)

    def __enter__(self) -> "Worker":
        return self


def _set_threads(context: EvaluationContext) -> None:
    torch.set_num_threads(context.n_cores)
