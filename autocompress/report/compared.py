"""The studies that a comparison is about, each with a letter and a name."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import StudyError
from autocompress.measurement import Measurement
from autocompress.record import RECORD_FILE, StudyRecord
from autocompress.report.wording import listed, printable

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class NamedStudy:
    """One of the studies that are compared.

    Attributes:
        letter: `A`, `B` and so on; names it in pictures and sentences.
        name: As much of the end of its folder's path as tells it from the others; plain text.
        record: What it found; its baseline was measured, and the choice is in it.
    """

    letter: str
    name: str
    record: StudyRecord

    @property
    def title(self) -> str:
        """Letter and name; plain text on one line."""
        return f"{self.letter}: {printable(self.name)}"

    @property
    def chosen(self) -> Measurement | None:
        """Numbers of the choice, on the test split where it was confirmed; None where nothing is chosen."""
        choice = self.record.chosen
        return (choice.test or self.record.candidate(choice.digest).measurement) if choice else None

    @property
    def split(self) -> str:
        """Whose samples `chosen` is about."""
        return "test" if self.record.chosen and self.record.chosen.test else "validation"


def read_studies(folders: Sequence[Path]) -> tuple[NamedStudy, ...]:
    """The studies in `folders`, in this order.

    Raises:
        StudyError: There are fewer than two, one is given twice, or a record is missing, damaged or incomplete.
    """
    if len(folders) < 2:
        raise StudyError(f"a comparison needs at least two studies, but got {len(folders)}; give several folders")
    paths = [folder.resolve() for folder in folders]
    twice = next((folder for i, folder in enumerate(folders) if paths[i] in paths[:i]), None)
    if twice is not None:
        raise StudyError(f"{twice} is given twice; give each study once")
    names = _shortest_names(paths)
    return tuple(NamedStudy(_letter(i), names[i], _record(folder)) for i, folder in enumerate(folders))


def by_value(studies: Iterable[NamedStudy], of: Callable[[NamedStudy], str]) -> dict[str, list[NamedStudy]]:
    """The studies by a value of theirs, in the order in which values first occur."""
    groups: dict[str, list[NamedStudy]] = {}
    for study in studies:
        groups.setdefault(of(study), []).append(study)
    return groups


def letters(studies: Iterable[NamedStudy]) -> str:
    """Their letters, such as `A, B and C`."""
    return listed([study.letter for study in studies])


def _letter(place: int) -> str:
    """A to Z, then AA, AB and so on.

    >>> _letter(0), _letter(25), _letter(26), _letter(701), _letter(702)
    ('A', 'Z', 'AA', 'ZZ', 'AAA')
    """
    more, last = divmod(place, len(ALPHABET))
    return (_letter(more - 1) if more else "") + ALPHABET[last]


def _shortest_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of distinct paths that are distinct, all of as many parts."""
    for n_parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-n_parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _record(folder: Path) -> StudyRecord:
    """The record of one study, of which a report can be made."""
    file = folder / RECORD_FILE
    record = StudyRecord.read(file)
    try:
        record.front()
        if record.chosen:
            record.candidate(record.chosen.digest)
    except StudyError as error:
        raise StudyError(f"{file} cannot be compared: {error}") from None
    return record
