"""One process for the work of all trials: if it crashes or hangs, a candidate fails and the study goes on."""

from collections.abc import Callable

import torch

from autocompress.graph import ModelGraph
from autocompress.processes import WorkProcess
from autocompress.search.configuration import Configuration
from autocompress.search.context import EvaluationContext
from autocompress.search.folder import StudyFolder
from autocompress.task import Task
from autocompress.train import Hardware


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


def study_worker(
    folder: StudyFolder,
    configuration: Configuration,
    task: Task,
    graph: ModelGraph,
    hardware: Hardware,
    on_wait: Callable[[], None],
    max_drop: float | None,
) -> Worker:
    """The worker for the candidates of a study.

    Args:
        folder: Of the study.
        configuration: Of the study.
        task: That it is about.
        graph: What was found in its model.
        hardware: On what to train.
        on_wait: As for `Worker`.
        max_drop: Trainings that cannot come near this drop are given up; None for never.
    """
    environment = configuration.environment
    context = EvaluationContext(
        task,
        graph,
        folder.candidates.resolve(),
        environment.n_cores,
        environment.inference_threads,
        hardware,
        max_drop,
        configuration.latency_seconds,
    )
    return Worker(context, on_wait)
