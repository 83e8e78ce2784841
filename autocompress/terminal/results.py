"""What came of searches: candidates, the choice, measurements, and claims that were checked."""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.compress.statistics import statistics
from autocompress.graph import inspect_model
from autocompress.measurement import Measurement
from autocompress.pareto import Candidate
from autocompress.recipe import Recipe
from autocompress.record import StudyRecord
from autocompress.report import statistics_table
from autocompress.report.finalists import alike_sentences
from autocompress.report.headline import FP32_CHOSEN
from autocompress.report.trainings import failure_sentence, incidents
from autocompress.report.wording import (
    kilobytes,
    points_interval,
    printable,
    recipe_brief,
    threads_words,
    times,
    zipped,
)
from autocompress.search.context import EvaluationContext
from autocompress.search.verification import Claim, Verification
from autocompress.task import Task
from autocompress.terminal.explanation import print_explanation


def candidate_line(candidate: Candidate) -> str:
    """A candidate in one line: name and recipe, speed-up, drop and size, or why it failed."""
    what = candidate.name if candidate.label else f"{candidate.digest}, {recipe_brief(candidate.recipe)}"
    what += ", trained longer" if candidate.rung == "long" else ""
    m = candidate.measurement
    if m is None:
        return f"{what}: failed: {failure_sentence(candidate)}"
    what = ", ".join([what, *(incidents(candidate.training) if candidate.training else [])])
    drop = points_interval(m.whole_drop)
    size = f"{kilobytes(m.size_bytes)} kB" + (f" ({zipped(m.zipped_bytes)} zipped)" if m.zipped_bytes else "")
    return f"{what}: {times(m.speedup)} faster, drop {drop} points, {size}"


def print_summary(console: Console, record: StudyRecord, folder: Path) -> None:
    """The choice, what should be known about it, and where everything is."""
    chosen = record.chosen
    if chosen is None:
        return
    candidate = record.candidate(chosen.digest)
    m = chosen.test or candidate.measurement
    where = "test" if chosen.test else "validation"
    if m:
        console.print(f"\n[bold]chosen: {candidate.name}[/bold]", highlight=False)
        print_measurement(console, m, where, folder / "chosen", record.environment.inference_threads)
    if candidate.recipe.is_identity:
        console.print(FP32_CHOSEN)
    elif not chosen.meets_wishes:
        console.print(f"the floor is not met: {chosen.reason}", markup=False)
    print_explanation(console, record)
    for finding in [*alike_sentences(record), *record.findings]:
        console.print(f"· {finding}", markup=False, highlight=False)
    console.print(f"report: {folder / 'report.md'}, {folder / 'front.html'}", markup=False)


def print_measurement(console: Console, m: Measurement, split: str, folder: Path, n_threads: int = 1) -> None:
    """What a deployed model does, a line a number."""
    table = Table.grid(padding=(0, 2))
    table.add_row("speed-up over FP32", f"{times(m.speedup)}, {m.speedup.n_pairs} pairs, 95 % interval")
    table.add_row("latency", f"{m.latency_ms:.3f} ms, median of one inference at {threads_words(n_threads)}{_tail(m)}")
    table.add_row(
        f"score on {split}", f"{m.accuracy:.4f} deployed, {m.torch_accuracy:.4f} in torch, {m.n_samples} samples"
    )
    table.add_row("accuracy drop", f"{points_interval(m.whole_drop)} points, 90 % interval")
    table.add_row("torch and deployed agree on", f"{m.agreement:.2%} of the samples{_farthest(m)}")
    table.add_row("size", f"{m.size_bytes} bytes (model.xml and model.bin)")
    if m.zipped_bytes is not None:
        table.add_row("zipped size", f"{m.zipped_bytes} bytes (both in a zip archive)")
    table.add_row("files", str(folder))
    console.print(table, highlight=False)


def _tail(m: Measurement) -> str:
    return f"; 99 of 100 within {m.latency_check.p99_ms:.3f} ms" if m.latency_check else ""


def _farthest(m: Measurement) -> str:
    return "" if m.largest_difference is None else f", outputs differ by {m.largest_difference:.2g} at most"


def print_statistics(console: Console, task: Task, recipe: Recipe, folder: Path) -> None:
    """What the recipe left of each layer of the trained model in `folder`."""
    context = EvaluationContext(task, inspect_model(task.model, task.example_input), folder, n_cores=1)
    module = context.restore(recipe, folder).module
    frame = statistics(task.model, module, recipe, task.example_input)
    console.print(statistics_table(frame), highlight=False)


def print_choice(console: Console, record: StudyRecord, folder: Path, why_not: str = "") -> None:
    """What is chosen, why, and what it does on the test split.

    Args:
        console: Where to print.
        record: Of the study.
        folder: The folder `chosen/`.
        why_not: Why it was not confirmed on the test split, else empty.
    """
    chosen = record.chosen
    if chosen is None:
        return
    candidate = record.candidate(chosen.digest)
    for line in (candidate_line(candidate), chosen.reason):
        console.print(line, markup=False, highlight=False)
    if chosen.test:
        print_measurement(console, chosen.test, "test", folder, record.environment.inference_threads)
    else:
        reason = f": {why_not}" if why_not else ""
        console.print(f"written to {folder}, not confirmed on the test split{reason}", markup=False, highlight=False)


def print_verification(console: Console, verification: Verification) -> None:
    """What differs here, then each claim of a manifest beside what was measured, and the verdict."""
    for difference in verification.differences:
        console.print(f"· {difference}", markup=False, highlight=False)
    table = Table(title=f"{verification.n_samples} {verification.split} samples")
    for column in ("claim", "manifest", "here", "verdict"):
        table.add_column(column)
    for claim in verification.claims:
        verdict = claim.verdict.upper() if claim.verdict == "fails" else claim.verdict
        table.add_row(claim.what, *map(Text, (claim.claimed, claim.here, f"{verdict}{_why(claim)}")))
    console.print(table, highlight=False)
    n_elsewhere = sum(claim.verdict == "not here" for claim in verification.claims)
    if not verification.holds:
        console.print("a claim fails on this machine", highlight=False)
    elif n_elsewhere:
        console.print("what must hold anywhere holds; what does not is a matter of the machine", highlight=False)
    else:
        console.print("every claim holds on this machine", highlight=False)


def _why(claim: Claim) -> str:
    return f": {printable(claim.why)}" if claim.why else ""
