"""What a study makes of the probe of this CPU: it is asked when the study begins, and never again."""

from pathlib import Path

import pytest

from autocompress import load_study
from autocompress.cpu_probe import CpuProbe, ProbeRow
from autocompress.graph import inspect_model
from autocompress.measurement import Speedup
from autocompress.recipe import LayerRecipe
from autocompress.search.configuration import Configuration
from autocompress.space import left_out, load_space, uniform_recipe
from tests.studies import study_of
from tests.tiny import tiny


def probe(saturates: bool = False) -> CpuProbe:
    """INT8 is faster, everything else is not."""
    slow, fast = (Speedup(value=v, low=v - 0.01, high=v + 0.01, n_pairs=40) for v in (1.0, 2.0))
    rows = [
        ProbeRow(
            question=question,
            kind=kind,
            shape="s",
            variant="v",
            baseline="b",
            speedup=fast if question == "int8" else slow,
        )
        for question in ("int8", "narrow_weights", "weights_only_int8", "weights_only_int4", "seven_bits", "sparse")
        for kind in ("conv3x3", "conv1x1", "depthwise", "linear")
    ]
    return CpuProbe(cpu="c", capabilities=(), openvino="1", n_threads=1, int8_saturates=saturates, rows=tuple(rows))


def configuration(folder: Path) -> Configuration:
    return Configuration.model_validate_json((folder / "study.json").read_text())


@pytest.mark.parametrize(
    ("objectives", "left"),
    [
        pytest.param(("accuracy_drop", "latency", "size_bytes"), {32, 8, 4}, id="7 bits buy nothing"),
        pytest.param(("accuracy_drop", "latency"), {32, 8}, id="without size 4 bits buy nothing either"),
    ],
)
def test_choices_that_buy_nothing_here_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objectives: tuple[str, ...], left: set[int]
) -> None:
    monkeypatch.setattr("autocompress.study.known_probe", lambda threads: probe())
    study = study_of(tiny(), tmp_path, space="full", objectives=objectives)
    assert study._space is not None
    assert {bits for layer in study._space.layers for bits in layer.weight_bits} == left
    assert any("weight_bits 7 was left out" in sentence for sentence in configuration(tmp_path).rewards)


def test_zeros_stay_where_somebody_asks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.study.known_probe", lambda threads: probe())
    study = study_of(tiny(), tmp_path, space="sparse")
    assert study._space is not None
    assert all(len(layer.sparsity) > 1 for layer in study._space.layers)


def test_without_a_probe_nothing_is_left_out_and_the_command_is_named(tmp_path: Path) -> None:
    study = study_of(tiny(), tmp_path, space="full")
    task = tiny()
    assert study._space == load_space("full").bind(inspect_model(task.model, task.example_input))
    assert "run autocompress cpu" in configuration(tmp_path).rewards[0]


def left_out_where_8_bits_saturate(patch: pytest.MonkeyPatch, known: CpuProbe | None) -> None:
    patch.setattr("autocompress.study.known_probe", lambda threads: known)
    patch.setattr("autocompress.study.left_out", lambda *arguments: left_out(*arguments[:-1], int8_saturates=True))


@pytest.mark.parametrize("known", [pytest.param(None, id="no probe"), pytest.param(probe(saturates=True), id="probe")])
def test_8_bit_weights_are_left_out_where_they_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: CpuProbe | None
) -> None:
    left_out_where_8_bits_saturate(monkeypatch, known)
    study = study_of(tiny(), tmp_path, space="full")
    assert study._space is not None
    assert {bits for layer in study._space.layers for bits in layer.weight_bits} == {32, 7, 4}
    assert any("weight_bits 8 was left out" in sentence for sentence in configuration(tmp_path).rewards)


def test_8_bit_weights_stay_where_a_space_has_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_out_where_8_bits_saturate(monkeypatch, None)
    eight = LayerRecipe(weight_bits=8, activation_bits=8)
    task = tiny()
    text = "description: a space\nlayers:\n  - match: '*'\n    weight_bits: [32, 8, 4]\n    activation_bits: [8]\n"
    (tmp_path / "space.yaml").write_text(text)
    study = study_of(task, tmp_path / "study", space=str(tmp_path / "space.yaml"))
    assert study._space is not None
    wanted = uniform_recipe(inspect_model(task.model, task.example_input), eight)
    assert study._space.nearest(wanted) == wanted


def test_a_probe_that_comes_later_changes_no_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study_of(tiny(), tmp_path, space="full")
    monkeypatch.setattr("autocompress.study.known_probe", lambda threads: probe())
    assert study_of(tiny(), tmp_path, space="full")._space == first._space
    assert load_study(tmp_path, tiny())._space == first._space


def test_what_was_left_out_stays_so_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autocompress.study.known_probe", lambda threads: probe())
    first = study_of(tiny(), tmp_path, space="full")
    monkeypatch.setattr("autocompress.study.known_probe", lambda threads: None)
    assert study_of(tiny(), tmp_path, space="full")._space == first._space
    assert load_study(tmp_path, tiny())._space == first._space
