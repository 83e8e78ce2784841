"""What a study has found so far, and its files: candidates, choice, findings, seconds.

Several processes may search in one study, each with a ledger of its own. Whatever one of them writes is first merged,
under the study's mutex, with what the others have written since.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from autocompress.explanation import Explanation
from autocompress.latency import JointLatency
from autocompress.measurement import Measurement
from autocompress.pareto import Candidate, Choice, choose
from autocompress.record import Chosen, Finalists, StudyInfo, StudyRecord
from autocompress.search import findings
from autocompress.search.chosen import ONNX, Manifest, write_chosen
from autocompress.search.configuration import Configuration
from autocompress.search.finalists import compared, with_latencies
from autocompress.search.folder import EXPORTED, StudyFolder


@dataclass(frozen=True)
class _Known:
    """What was in `candidates.json` when it was last read or written; the very objects, so that `is` tells changes."""

    candidates: Mapping[str, Candidate] = field(default_factory=dict)
    chosen: Chosen | None = None
    finalists: Finalists | None = None
    findings: tuple[str, ...] = ()


class Ledger:
    """Keeps `candidates.json` and `chosen/` in step with what was found.

    Args:
        folder: The study's folder.
        configuration: What was asked for.
        info: The same, as reports show it.

    Attributes:
        candidates: By digest, in the order in which they were first tried.
        chosen: The present choice, None before the first.
        finalists: Those that were timed together at the end of the last search.
        findings: Sentences about model and processor.
        explanation: Why the choice is what it is, once the search has ended.
    """

    def __init__(self, folder: StudyFolder, configuration: Configuration, info: StudyInfo) -> None:
        self._folder, self._configuration, self._info = folder, configuration, info
        self.candidates: dict[str, Candidate] = {}
        self.chosen: Chosen | None = None
        self.finalists: Finalists | None = None
        self.findings: list[str] = []
        self.explanation: Explanation | None = None
        self._seconds: dict[str, float] = {}  # as written, of all processes
        self._new_seconds: dict[str, float] = {}  # of this process, not yet written
        self._known, self._text = _Known(), b""
        self.wishes = configuration.wishes
        if folder.record.is_file():
            self._take_over(StudyRecord.read(folder.record))

    def record(self) -> StudyRecord:
        """All that was found so far."""
        return StudyRecord(
            study=self._info,
            environment=self._configuration.environment,
            candidates=tuple(self.candidates.values()),
            chosen=self.chosen,
            finalists=self.finalists,
            findings=tuple(dict.fromkeys(self.findings)),
            seconds=_sum(self._seconds, self._new_seconds),
            explanation=self.explanation,
        )

    def source(self, digest: str) -> Path:
        """Folder of a candidate's files."""
        return self._folder.candidates.resolve() / digest

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Count time by phase; written with what is kept or saved next."""
        self._new_seconds = _sum(self._new_seconds, seconds)

    def refresh(self) -> None:
        """Take over what other processes have written since this one last looked; cheap where there is nothing.

        What this process changed and has not saved yet stays.

        Raises:
            StudyError: `candidates.json` is damaged.
        """
        with self._folder.mutex():
            if self._read() == self._text:
                return
            theirs = StudyRecord.read(self._folder.record)
            mine = {d: c for d, c in self.candidates.items() if self._known.candidates.get(d) is not c}
            chosen, finalists, findings = self.chosen, self.finalists, self._merged_findings(theirs)
            known = self._known
            self._take_over(theirs)
            self.candidates |= mine
            self.findings = findings
            if finalists is not known.finalists:
                self.finalists = finalists
            if chosen is not known.chosen and not (theirs.chosen and self._is_better_informed(theirs.chosen, chosen)):
                self.chosen = chosen

    def _take_over(self, record: StudyRecord) -> None:
        self.candidates = {c.digest: c for c in record.candidates}
        self.chosen, self.finalists = record.chosen, record.finalists
        self.explanation = self.explanation or record.explanation
        self.findings = list(record.findings)
        self._seconds = dict(record.seconds)
        self._remember()

    def _remember(self) -> None:
        self._known = _Known(dict(self.candidates), self.chosen, self.finalists, tuple(self.findings))
        self._text = self._read()

    def _read(self) -> bytes:
        return self._folder.record.read_bytes() if self._folder.record.is_file() else b""

    def _merged_findings(self, theirs: StudyRecord) -> list[str]:
        """Our sentences less those that others removed, and those that others added.

        What another process said of the numbers when it ended is left out: this one says it anew when it ends.
        """
        known = self._known.findings
        kept = [s for s in self.findings if s in theirs.findings or s not in known]
        skipped = {*kept, *known, *self._about_numbers(theirs)}
        return kept + [s for s in theirs.findings if s not in skipped]

    def _is_better_informed(self, theirs: Chosen, ours: Chosen | None) -> bool:
        """Whether the choice of another process is better than ours, which was made at the same time."""
        if ours is None:
            return True
        if theirs.digest == ours.digest:
            return ours.test is None and theirs.test is not None
        return theirs.digest == self.best().candidate.digest

    def keep(self, candidate: Candidate) -> None:
        """Record a finished candidate, and bring `chosen/` up to date where it changes the choice."""
        with self._folder.mutex():
            self.refresh()
            self.candidates[candidate.digest] = candidate
            if self.finalists and candidate.digest in self.finalists.digests:  # what they were compared with is no more
                self.finalists = None
            self.add_seconds(candidate.seconds)
            if candidate.measurement:
                choice = self.best()
                changed = self.chosen is None or self.chosen.digest != choice.candidate.digest
                if changed or choice.candidate.digest == candidate.digest:
                    self.choose(choice)
                    self._publish()
            self.save()

    def keep_finalists(self, candidates: Sequence[Candidate], timed: JointLatency) -> None:
        """Take over what one session of all finalists says, and choose again with it.

        A candidate that another process has trained again meanwhile keeps its own latency.
        """
        with self._folder.mutex():
            self.refresh()
            is_same = [self.candidates.get(c.digest) == c for c in candidates]
            updated = with_latencies(candidates, timed)
            self.candidates |= {c.digest: c for c, same in zip(updated, is_same, strict=True) if same}
            self.finalists = compared(candidates, timed) if all(is_same) else None
            self.choose(self.best())
            self.save()

    def best(self) -> Choice:
        """The candidate that would be chosen now."""
        return choose(self.candidates.values(), self.wishes)

    def choose(self, choice: Choice, test: Measurement | None = None) -> None:
        """Take `choice`, with its measurement on the test split once there is one."""
        c = choice.candidate
        self.chosen = Chosen(digest=c.digest, meets_wishes=choice.meets_wishes, reason=choice.reason, test=test)

    def write_chosen(self, export_onnx: Callable[[Path], str] | None = None) -> None:
        """Write `chosen/` for the present choice; see `write_chosen` of the module `chosen`.

        Where another process has changed choice or candidate during the export, that is not used.
        """
        if self.chosen is None:
            return
        candidate = self.candidates[self.chosen.digest]
        with TemporaryDirectory(prefix=EXPORTED, dir=self._folder.path) as exported:
            reason = export_onnx(Path(exported).resolve() / ONNX) if export_onnx else None
            with self._folder.mutex():
                self.refresh()
                if self.candidates[self.chosen.digest] == candidate:
                    self._publish(None if reason is None else lambda path: _moved(Path(exported), path.parent, reason))
                self.save()

    def _publish(self, export_onnx: Callable[[Path], str] | None = None) -> None:
        if self.chosen is None:
            return
        c = self._configuration
        candidate = self.candidates[self.chosen.digest]
        task = c.task_reference or "FILE.py:FUNCTION"
        steps = f"--steps {candidate.n_steps} --seed {candidate.seed}"
        manifest = Manifest(
            candidate=candidate,
            chosen=self.chosen,
            task=c.task,
            task_reference=c.task_reference,
            score=self._info.score,
            max_drop=c.max_drop if self.wishes.max_drop is None else self.wishes.max_drop,
            environment=c.environment,
            repeat=(
                f"autocompress compress {task} --recipe chosen/recipe.yaml {steps} --out again",
                "autocompress verify chosen",
            ),
        )
        write_chosen(manifest, self.source(candidate.digest), self._folder.chosen, export_onnx)

    def forget_numbers(self) -> None:
        """Leave out the findings that were drawn from numbers, before these change; `conclude` draws them anew."""
        old = set(self._about_numbers(self.record()))
        self.findings = [sentence for sentence in self.findings if sentence not in old]

    def conclude(self, elapsed: float) -> None:
        """Add what the numbers say to the findings, and account for all the time of this call.

        Args:
            elapsed: Seconds that this process has searched; those of all processes add up to the total.
        """
        with self._folder.mutex():
            self.refresh()
            self.add_seconds({"total": elapsed})
            self.findings += self._about_numbers(self.record())
            seconds = self.record().seconds
            accounted = sum(s for phase, s in seconds.items() if phase not in ("total", "other"))
            other = max(0.0, seconds["total"] - accounted)
            self.add_seconds({"other": other - seconds.get("other", 0.0)})
            self.save()

    def _about_numbers(self, record: StudyRecord) -> list[str]:
        found = findings.about_candidates(record.candidates, self._configuration.environment)
        if record.chosen:
            chosen = next(c for c in record.candidates if record.chosen.digest == c.digest)
            found += findings.about_floor(record.candidates, chosen, self._configuration.max_drop)
        if record.chosen and record.chosen.test:
            found += findings.about_test(record.chosen.test, self._configuration.max_drop)
        return found

    def save(self) -> None:
        """Write `candidates.json`, merged with what other processes have written since."""
        with self._folder.mutex():
            self.refresh()
            record = self.record()
            record.write(self._folder.record)
            self._seconds, self._new_seconds = dict(record.seconds), {}
            self._remember()


def _sum(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {phase: a.get(phase, 0.0) + b.get(phase, 0.0) for phase in {**a, **b}}


def _moved(source: Path, target: Path, reason: str) -> str:
    """Move the files of `source` into `target`; `reason` comes back."""
    for file in source.iterdir():
        shutil.move(file, target / file.name)
    return reason
