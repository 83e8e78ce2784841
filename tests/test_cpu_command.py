"""`autocompress cpu`: it probes once, remembers, and draws."""

from pathlib import Path

import pytest

from autocompress.cpu_probe import CpuProbe, ProbeRow
from autocompress.measure.probe import probe_key
from autocompress.measurement import Speedup
from tests.commands import Command


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Threads of every probe that was made; each takes no time and has one answer."""
    made: list[int] = []

    def probe(n_threads: int, **_: object) -> CpuProbe:
        made.append(n_threads)
        speedup = Speedup(value=2.5, low=2.4, high=2.6, n_pairs=40)
        fields = {"question": "int8", "kind": "conv3x3", "shape": "64 channels", "variant": "INT8", "baseline": "FP32"}
        row = ProbeRow.model_validate(fields | {"speedup": speedup})
        return CpuProbe(**probe_key(n_threads)._asdict(), int8_saturates=False, rows=(row,))

    monkeypatch.setattr("autocompress.measure.probe_cpu", probe)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def test_cpu_probes_once_and_remembers(command: Command, probed: list[int]) -> None:
    first, second = command("cpu"), command("cpu")
    assert first.code == 0 and "2.50x [2.40, 2.60]" in first.out and "INT8 against FP32" in first.out
    assert second.out == first.out and probed == [1]


def test_cpu_probes_again_when_told_to(command: Command, probed: list[int]) -> None:
    command("cpu")
    assert command("cpu", "--again").code == 0 and probed == [1, 1]


def test_cpu_draws_what_it_knows(command: Command, probed: list[int], tmp_path: Path) -> None:
    done = command("cpu", "--picture", tmp_path / "cpu.svg")
    assert done.code == 0 and f"wrote {tmp_path / 'cpu.svg'}" in done.out
    assert "<svg" in (tmp_path / "cpu.svg").read_text()
