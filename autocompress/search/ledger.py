"""What a study has found so far, and its files: candidates, choice, findings, seconds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from autocompress.latency import JointLatency
from autocompress.measurement import Measurement
from autocompress.pareto import Candidate, Choice, Wishes, choose
from autocompress.record import Chosen, StudyInfo, StudyRecord
from autocompress.search import findings
from autocompress.search.chosen import Manifest, write_chosen
from autocompress.search.finalists import compared, with_latencies
from autocompress.search.folder import StudyFolder
from autocompress.search.identity import Configuration


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
    """

    def __init__(self, folder: StudyFolder, configuration: Configuration, info: StudyInfo) -> None:
        self._folder, self._configuration, self._info = folder, configuration, info
        known = StudyRecord.read(folder.record) if folder.record.is_file() else None
        self.candidates = {c.digest: c for c in known.candidates} if known else {}
        self.chosen = known.chosen if known else None
        self.finalists = known.finalists if known else None
        self.findings: list[str] = list(known.findings) if known else []
        self._seconds = dict(known.seconds) if known else {}
        self._seconds_before = self._seconds.get("total", 0.0)
        self.wishes = Wishes(configuration.max_drop)

    def record(self) -> StudyRecord:
        """All that was found so far."""
        return StudyRecord(
            study=self._info,
            environment=self._configuration.environment,
            candidates=tuple(self.candidates.values()),
            chosen=self.chosen,
            finalists=self.finalists,
            findings=tuple(dict.fromkeys(self.findings)),
            seconds=self._seconds,
        )

    def source(self, digest: str) -> Path:
        """Folder of a candidate's files."""
        return self._folder.candidates.resolve() / digest

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Count time by phase."""
        for phase, value in seconds.items():
            self._seconds[phase] = self._seconds.get(phase, 0.0) + value

    def keep(self, candidate: Candidate) -> None:
        """Record a finished candidate, and bring `chosen/` up to date where it changes the choice."""
        self.candidates[candidate.digest] = candidate
        if self.finalists and candidate.digest in self.finalists.digests:  # what they were compared with is no more
            self.finalists = None
        self.add_seconds(candidate.seconds)
        if candidate.measurement:
            choice = self.best()
            changed = self.chosen is None or self.chosen.digest != choice.candidate.digest
            if changed or choice.candidate.digest == candidate.digest:
                self.choose(choice)
                self.write_chosen()
        self.save()

    def keep_finalists(self, candidates: Sequence[Candidate], timed: JointLatency) -> None:
        """Take over what one session of all finalists says, and choose again with it."""
        self.candidates |= {c.digest: c for c in with_latencies(candidates, timed)}
        self.finalists = compared(candidates, timed)
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
        """Write `chosen/` for the present choice; see `write_chosen` of the module `chosen`."""
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

    def conclude(self, elapsed: float) -> None:
        """Add what the numbers say to the findings, and account for all the time of this call."""
        self.findings += findings.about_candidates(self.candidates.values(), self._configuration.environment)
        if self.chosen and self.chosen.test:
            self.findings += findings.about_test(self.chosen.test, self._configuration.max_drop)
        total = self._seconds_before + elapsed
        accounted = sum(s for phase, s in self._seconds.items() if phase not in ("total", "other"))
        self._seconds |= {"total": total, "other": max(0.0, total - accounted)}
        self.save()

    def save(self) -> None:
        """Write `candidates.json`."""
        self.record().write(self._folder.record)
