"""Where the answers of a probe are kept between studies: a file for each processor, OpenVINO and number of threads."""

import hashlib
import json
import os
from pathlib import Path

from pydantic import ValidationError

from autocompress.cpu_probe import PROBE_VERSION, CpuProbe
from autocompress.measure.probe import ProbeKey, probe_key

_DIGITS = 12


def cache_folder() -> Path:
    """`autocompress` in the user's folder of caches: XDG_CACHE_HOME where it is an absolute path, else `~/.cache`.

    The law is that of the XDG Base Directory Specification, version 0.8.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache") / "autocompress"


def probe_file(n_threads: int, folder: Path | None = None) -> Path:
    """The file with the answers for this processor, OpenVINO, instruction limit, questions and `n_threads` threads."""
    text = json.dumps([PROBE_VERSION, *probe_key(n_threads)])
    digest = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return (folder or cache_folder()) / f"cpu-{digest}.json"


def known_probe(n_threads: int = 1, folder: Path | None = None) -> CpuProbe | None:
    """The answers that are kept for this processor, without measuring.

    Args:
        n_threads: Threads of every inference.
        folder: Where they are kept; `cache_folder()` if left out.

    Returns:
        None where there are none, or where their file cannot be read or is damaged.
    """
    try:
        probe = CpuProbe.model_validate_json(probe_file(n_threads, folder).read_bytes())
    except (OSError, ValidationError):
        return None
    return probe if probe.version == PROBE_VERSION and _key_of(probe) == probe_key(n_threads) else None


def keep_probe(probe: CpuProbe, folder: Path | None = None) -> Path | None:
    """Keep the answers of a probe that was just made on this processor.

    One whose time ended before it had asked nearly everything, or that noise left without many verdicts, is not kept.

    Args:
        probe: The answers.
        folder: Where to keep them; `cache_folder()` if left out.

    Returns:
        The file; None where nothing is kept or it cannot be written, so that the next study has to ask again.
    """
    if not (probe.is_complete and probe.is_clear):
        return None
    file = probe_file(probe.n_threads, folder)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(probe.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(file)
    except OSError:
        return None
    return file


def _key_of(probe: CpuProbe) -> ProbeKey:
    return ProbeKey(*(getattr(probe, name) for name in ProbeKey._fields))
