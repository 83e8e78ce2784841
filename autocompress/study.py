"""A study: a task, a space and a folder in which the search for the best front can go on at any time."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas

from autocompress.errors import SearchSpaceError, StudyError
from autocompress.graph import ModelGraph, inspect_model
from autocompress.measure import describe_environment, known_probe
from autocompress.pareto import DEFAULT_OBJECTIVES, Candidate, Choice, ParetoFront, Wishes
from autocompress.recipe import Recipe
from autocompress.record import StudyInfo, StudyRecord, write_atomically
from autocompress.report import frame, write_report
from autocompress.report.frame import with_column_table
from autocompress.report.notebook import record_html
from autocompress.search.budget import Budget
from autocompress.search.configuration import Configuration
from autocompress.search.confirmation import Confirmation
from autocompress.search.controller import Controller
from autocompress.search.folder import StudyFolder
from autocompress.search.identity import task_identity
from autocompress.search.placing import open_folder, place, read_record, wishes_for
from autocompress.search.progress import OnProgress
from autocompress.search.samplers import SAMPLERS
from autocompress.space import DEFAULT_SPACE, BoundSpace, SearchSpace, left_out, load_space, without
from autocompress.task import Task
from autocompress.train import Hardware

DEFAULT_SAMPLER = "bayesdp"


class Study:
    """A study in its folder; make one with `create_study` or `load_study`.

    Attributes:
        folder: Where everything is.
        configuration: What was asked for.
        task: The task, or None where only results are read.
    """

    def __init__(
        self,
        folder: StudyFolder,
        configuration: Configuration,
        task: Task | None = None,
        graph: ModelGraph | None = None,
        space: BoundSpace | None = None,
    ) -> None:
        self.folder = folder
        self.configuration = configuration
        self.task = task
        self._graph = graph
        self._space = space

    @property
    def record(self) -> StudyRecord:
        """All that was found so far.

        Raises:
            StudyError: Nothing was measured yet.
        """
        return read_record(self.folder)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates in the order in which they were tried."""
        return self.record.candidates

    @property
    def front(self) -> ParetoFront:
        """The candidates that no other dominates."""
        return self.record.front()

    def frame(self) -> pandas.DataFrame:
        """One row a candidate, in the order in which they were tried; measured numbers of a failed one are missing."""
        return frame(self.record)

    frame.__doc__ = with_column_table(frame.__doc__)

    def _repr_html_(self) -> str:
        """In a notebook: what was reached, all candidates as a picture, and the front as a table."""
        try:
            return record_html(self.record)
        except StudyError as error:  # nothing was measured yet
            return f"<p>{escape(str(error))}</p>"

    def optimize(
        self,
        budget: str | Budget,
        on_progress: OnProgress = lambda _: None,
        start: float | None = None,
        hardware: Hardware | None = None,
    ) -> StudyRecord:
        """Search until the budget is used up, then confirm the choice on the test split and write the report.

        Ctrl-C ends the search early in the same way. Several processes may search in one study at the same time.

        Args:
            budget: For example ``"10m"`` or ``"40trials"``.
            on_progress: Called several times a second.
            start: `time.monotonic()` from which the budget counts; from this call by default.
            hardware: Devices and precision of the trainings; a GPU where there is one by default. Accuracy and latency
                are those on the CPU all the same.

        Raises:
            BudgetError: The budget does not parse or is too small.
            StudyError: The study was loaded without its task, is in use, or its baseline cannot be measured.
        """
        controller = self._controller(on_progress, hardware)
        record = controller.search(Budget.parse(budget), start)
        with self.folder.mutex():
            write_report(record, self.folder.path)
        return record

    def choose(
        self,
        max_drop: float | None = None,
        max_latency_ms: float | None = None,
        max_size_bytes: int | None = None,
        target_speedup: float | None = None,
        *,
        digest: str | None = None,
        full_finetune: bool = False,
        on_progress: OnProgress = lambda _: None,
        hardware: Hardware | None = None,
    ) -> Choice:
        """Choose again among the candidates found, and put the choice into `chosen/`.

        It is there at once; with the task at hand it is then confirmed on the test split and exported to ONNX too, and
        what is in `chosen/` is replaced by that, whole. Ctrl-C ends first a training, then the confirmation.

        Args:
            max_drop: Accuracy floor, in units of the score; the study's own where None.
            max_latency_ms: Largest latency, milliseconds.
            max_size_bytes: Largest size of the deployed files, bytes.
            target_speedup: Least speed-up over FP32.
            digest: Of the candidate that is wanted, or how it starts; instead of bounds.
            full_finetune: Train the chosen candidate as long as the long rung of a search with time enough does, and
                keep the better of the model before and after; needs the task.
            on_progress: Called several times a second.
            hardware: As for `optimize`.

        Returns:
            The choice, with its measurement as it is at the end.

        Raises:
            StudyError: Nothing was measured yet, the study is in use, no candidate or several have that digest, the
                one that has was not measured or its files are gone, or the task is missing.
        """
        if full_finetune and self.task is None:
            raise StudyError("the study was loaded without its task; use load_study(out, task) for a full fine-tuning")
        wishes = wishes_for(
            self.folder,
            self.configuration,
            max_drop=max_drop,
            max_latency_ms=max_latency_ms,
            max_size_bytes=max_size_bytes,
            target_speedup=target_speedup,
            digest=digest,
        )
        with self.folder.locked():
            choice = place(self.folder, self.configuration, wishes)
            try:
                if self.task is not None and self._graph is not None:
                    confirmation = Confirmation(
                        self.folder, self.configuration, self.task, self._graph, on_progress, hardware or Hardware()
                    )
                    choice = confirmation.run(choice, wishes, full_finetune)
            finally:
                write_report(self.record, self.folder.path)
        return choice

    def _controller(self, on_progress: OnProgress, hardware: Hardware | None) -> Controller:
        if self.task is None or self._graph is None:
            raise StudyError("the study was loaded without its task; use load_study(out, task) to search on")
        if self._space is None:
            raise StudyError(f"the space of study {self.folder.path} cannot be had any more; begin a new study")
        info = StudyInfo(
            task=self.configuration.task["name"],
            score=self.configuration.task["score"],
            higher_is_better=self.configuration.task["higher_is_better"],
            space=self.configuration.space,
            max_drop=self.configuration.max_drop,
            objectives=self.configuration.objectives,
            sampler=self.configuration.sampler,
            seed=self.configuration.seed,
            n_layers=len(self._graph.compressible),
            n_parameters=len(self._space.parameters),
        )
        return Controller(
            self.folder, self.configuration, info, self.task, self._graph, self._space, on_progress, hardware
        )


def create_study(
    task: Task,
    *,
    out: str | Path,
    space: str | Path | SearchSpace = DEFAULT_SPACE,
    max_drop: float = 0.01,
    max_latency_ms: float | None = None,
    max_size_bytes: int | None = None,
    target_speedup: float | None = None,
    objectives: Sequence[str] = DEFAULT_OBJECTIVES,
    sampler: str = DEFAULT_SAMPLER,
    seed: int = 0,
    finetune_steps: int | None = None,
    latency_seconds: float | None = None,
    threads: int = 1,
    task_reference: str | None = None,
) -> Study:
    """A study in the folder `out`; one that is there already is taken up again.

    Args:
        task: Model, data, loss and score.
        out: Folder of the study.
        space: Name of a built-in search space, path of a YAML file, or a loaded space.
        max_drop: Largest accuracy drop, >= 0, in units of the score (0.01 is one point of an accuracy).
        max_latency_ms: Largest latency of the choice, > 0, milliseconds.
        max_size_bytes: Largest size of the choice, > 0, bytes of `model.xml` and `model.bin`.
        target_speedup: Least speed-up of the choice over FP32, > 0.
        objectives: What the front minimizes: of `accuracy_drop`, `latency`, `size_bytes`.
        sampler: What proposes recipes, of `SAMPLERS`.
        seed: Seed of search and training.
        finetune_steps: Training steps of each candidate; by default as many as suit the first budget.
        latency_seconds: For timing one candidate, at most, > 0; 3 by default, and 8 for the choice, which is in
            proportion. More on a noisy machine.
        threads: Inference threads of every latency, >= 1 and at most as many as there are cores.
        task_reference: How the command line names the task, for `choose` and `verify`.

    Raises:
        StudyError: A value is out of range, the folder cannot be written, or it holds another study.
        SearchSpaceError: The space does not load, or does not fit the model.
        GraphError: The model does not run, or has nothing to compress.
    """
    Wishes(max_drop, max_latency_ms, max_size_bytes, target_speedup)
    if sampler not in SAMPLERS:
        raise StudyError(f"sampler must be one of {', '.join(SAMPLERS)}, but got {sampler!r}")
    unknown = [name for name in objectives if name not in DEFAULT_OBJECTIVES]
    if unknown or not objectives:
        raise StudyError(f"objectives must be some of {', '.join(DEFAULT_OBJECTIVES)}, but got {list(objectives)}")
    if finetune_steps is not None and finetune_steps < 0:
        raise StudyError(f"finetune_steps must be at least 0, but got {finetune_steps}")
    if latency_seconds is not None and not 0 < latency_seconds < float("inf"):
        raise StudyError(f"latency_seconds must be above 0, but got {latency_seconds}; 3 is the default")
    loaded = space if isinstance(space, SearchSpace) else load_space(space)
    graph = inspect_model(task.model, task.example_input)
    bound = loaded.bind(graph)
    if bound.n_recipes == 1 and bound.nearest(Recipe()).is_identity:
        raise SearchSpaceError(
            f"space {loaded.name} has nothing to try on this model: none of its rules matches a layer or channel group "
            "that can be compressed; autocompress inspect shows them, full is a larger space"
        )
    environment = describe_environment(threads)
    dropped, sentences = left_out(bound, graph, objectives, known_probe(threads), environment.int8_saturates)
    configuration = Configuration(
        task=task_identity(task),
        task_reference=task_reference,
        space=loaded.name,
        space_text={name: list(choices) for name, choices in bound.parameters.items()},
        max_drop=max_drop,
        max_latency_ms=max_latency_ms,
        max_size_bytes=max_size_bytes,
        target_speedup=target_speedup,
        objectives=tuple(objectives),
        sampler=sampler,
        seed=seed,
        finetune_steps=finetune_steps,
        latency_seconds=latency_seconds,
        environment=environment,
        dropped=dropped,
        rewards=sentences,
    )
    folder = StudyFolder(Path(out))
    if folder.configuration.is_file():
        known = Configuration.read(folder.configuration)
        known.refuse_changes(configuration, str(folder.path))
        configuration = known
    elif folder.record.is_file():
        raise StudyError(f"{folder.path} has results but no study.json; give another output folder")
    else:
        write_atomically(folder.configuration, configuration.model_dump_json(indent=1) + "\n")
    return Study(folder, configuration, task, graph, without(bound, configuration.dropped))


def load_study(out: str | Path, task: Task | None = None) -> Study:
    """The study in the folder `out`.

    Args:
        out: Folder of the study.
        task: The task it was made with, needed to search on, or to confirm a new choice.

    Raises:
        StudyError: There is no study, or it belongs to another task.
    """
    folder, known = open_folder(Path(out))
    if task is None:
        return Study(folder, known)
    known.refuse_changes(known.model_copy(update={"task": task_identity(task)}), str(folder.path))
    graph = inspect_model(task.model, task.example_input)
    return Study(folder, known, task, graph, _bind_again(known, graph))


def _bind_again(known: Configuration, graph: ModelGraph) -> BoundSpace | None:
    """The study's space, where it is still to be had and the same; without it one can choose, not search."""
    try:
        bound = load_space(known.space).bind(graph)
    except SearchSpaceError:
        return None
    same = {name: list(choices) for name, choices in bound.parameters.items()} == known.space_text
    return without(bound, known.dropped) if same else None
