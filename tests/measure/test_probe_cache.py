"""Where probes are kept: round trips, keys, damage, and folders that cannot be written."""

import json
from pathlib import Path

import pytest

from autocompress.cpu_probe import NO_TIME, CpuProbe, ProbeRow
from autocompress.measure import probe_cache
from autocompress.measure.probe import probe_key
from autocompress.measure.probe_cache import cache_folder, keep_probe, known_probe, probe_file
from autocompress.measurement import Speedup


def probe(n_threads=1, **changes):
    ratio = Speedup(value=2.0, low=1.9, high=2.1, n_pairs=40)
    row = ProbeRow(question="int8", kind="conv3x3", shape="s", variant="INT8", baseline="FP32", speedup=ratio)
    return CpuProbe(**(probe_key(n_threads)._asdict() | {"int8_saturates": True, "rows": (row,)} | changes))


def test_what_is_kept_is_known(tmp_path) -> None:
    file = keep_probe(probe(), tmp_path / "new" / "folder")
    assert file == probe_file(1, tmp_path / "new" / "folder")
    assert known_probe(1, tmp_path / "new" / "folder") == probe()
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_nothing_is_known_at_first(tmp_path) -> None:
    assert known_probe(1, tmp_path) is None


def test_each_number_of_threads_has_its_own(tmp_path) -> None:
    keep_probe(probe(1), tmp_path)
    assert known_probe(2, tmp_path) is None
    keep_probe(probe(2), tmp_path)
    assert (known_probe(1, tmp_path).n_threads, known_probe(2, tmp_path).n_threads) == (1, 2)


KEY_CHANGES = [  # id, field of the key, new value
    ("another processor", "cpu", "Another CPU"),
    ("other capabilities", "capabilities", ("FP32",)),
    ("another OpenVINO", "openvino", "1999.1"),
    ("an instruction limit", "isa_limit", "AVX2"),
]


@pytest.mark.parametrize(("field", "value"), [pytest.param(*row[1:], id=row[0]) for row in KEY_CHANGES])
def test_a_probe_is_not_known_with(tmp_path, monkeypatch, field, value) -> None:
    keep_probe(probe(), tmp_path)
    monkeypatch.setattr(probe_cache, "probe_key", lambda n: probe_key(n)._replace(**{field: value}))
    assert known_probe(1, tmp_path) is None


def test_the_instruction_limit_comes_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert probe_key(1).isa_limit == "AVX2"


def test_a_probe_with_other_questions_is_not_known(tmp_path, monkeypatch) -> None:
    keep_probe(probe(), tmp_path)
    monkeypatch.setattr(probe_cache, "PROBE_VERSION", probe_cache.PROBE_VERSION + 1)
    assert known_probe(1, tmp_path) is None


DAMAGES = [  # id, what becomes of the text
    ("cut off", lambda text: text[:100]),
    ("empty", lambda text: ""),
    ("no JSON", lambda text: "hello"),
    ("another structure", lambda text: json.dumps({"rows": 3})),
    ("a ratio below zero", lambda text: text.replace("2.0", "-2.0")),
    ("the file of another processor", lambda text: text.replace(probe_key(1).cpu, "Another CPU")),
    ("another version of the questions", lambda text: text.replace('"version": 1', '"version": 0')),
    ("bytes that are no text", lambda text: text.encode().replace(b"INT8", b"\xff\xfe")),
]


@pytest.mark.parametrize("damage", [pytest.param(row[1], id=row[0]) for row in DAMAGES])
def test_a_damaged_file_is_no_probe(tmp_path, damage) -> None:
    file = keep_probe(probe(), tmp_path)
    damaged = damage(file.read_text())
    file.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert known_probe(1, tmp_path) is None


def test_a_damaged_file_is_replaced_by_a_new_probe(tmp_path) -> None:
    keep_probe(probe(), tmp_path).write_text("{")
    keep_probe(probe(seconds=3.0), tmp_path)
    assert known_probe(1, tmp_path).seconds == 3.0


def test_a_probe_that_ran_out_of_time_is_not_kept(tmp_path) -> None:
    assert keep_probe(probe(unanswered={"binary": NO_TIME}), tmp_path) is None
    assert known_probe(1, tmp_path) is None


def test_a_probe_full_of_noise_is_not_kept(tmp_path) -> None:
    noisy = probe().rows[0].model_copy(update={"noise_floor": 5.0})
    assert keep_probe(probe(rows=(noisy,)), tmp_path) is None
    assert known_probe(1, tmp_path) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert keep_probe(probe(), tmp_path / "file" / "folder") is None
    assert known_probe(1, tmp_path / "file" / "folder") is None


FOLDERS = [  # id, XDG_CACHE_HOME, folder
    ("not set", None, "/home/someone/.cache/autocompress"),
    ("empty", "", "/home/someone/.cache/autocompress"),
    ("set", "/elsewhere", "/elsewhere/autocompress"),
    ("relative, which the specification tells to ignore", "here", "/home/someone/.cache/autocompress"),
]


@pytest.mark.parametrize(("given", "folder"), [pytest.param(*row[1:], id=row[0]) for row in FOLDERS])
def test_the_folder_follows_the_xdg_specification(monkeypatch, given, folder) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/someone"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert str(cache_folder()) == folder
