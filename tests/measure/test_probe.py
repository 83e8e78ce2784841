"""The probe with a made-up timer, and its nets for real: kernels, values, and a few rows."""

import numpy as np
import openvino
import pytest

from autocompress.cpu_probe import NO_TIME
from autocompress.errors import MeasurementError
from autocompress.latency import LatencyProcess, PairedLatency, compile_model
from autocompress.measure import probe as module
from autocompress.measure.probe import probe_cpu
from autocompress.measure.probe_models import LARGEST_INPUT, ProbeNet, build
from autocompress.measure.probe_questions import comparisons
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.processes import WorkFailedError
from autocompress.recipe import LayerRecipe

ASKED = comparisons()[4:12]  # enough for all but the nets themselves
FP32, INT8 = LayerRecipe(), LayerRecipe(weight_bits=8, activation_bits=8)


class FakeTimer:
    """Says 2x for everything, remembers what it was asked, and fails where it is told to."""

    def __init__(self, failing: int | None = None) -> None:
        self.asked, self.settings, self._failing = [], [], failing

    def compare(self, baseline, candidate, inputs, settings):
        assert baseline.is_file()
        assert candidate.with_suffix(".bin").is_file()
        assert baseline != candidate
        self.asked.append((baseline, candidate, inputs[0].shape))
        self.settings.append(settings)
        if self._failing == len(self.asked):
            raise WorkFailedError("no such kernel")
        check = LatencyCheck(p90_ms=1, p99_ms=1, noise_floor=0.01, busy_share=0, is_noisy=True)
        return PairedLatency(Speedup(value=2, low=1.9, high=2.1, n_pairs=40), 1.0, 2.0, check)

    def default_precision(self, model, inputs, settings):
        return Speedup(value=1.5, low=1.4, high=1.6, n_pairs=40)


@pytest.fixture(name="plain_floats", autouse=True)
def _plain_floats(monkeypatch) -> None:
    monkeypatch.setattr(module, "default_precision_of", lambda model, n_threads: "f32")
    monkeypatch.setattr(module, "comparisons", lambda: ASKED)


def kernels_of(compiled: openvino.CompiledModel) -> list[str]:
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    layers = ("Convolution", "BinaryConvolution", "FullyConnected", "MatMul")
    return [i["primitiveType"].astype(str).rpartition("_")[2] for i in info if i["layerType"].astype(str) in layers]


def test_every_comparison_becomes_a_row_in_order() -> None:
    timer = FakeTimer()
    found = probe_cpu(2, timer=timer)
    assert [(r.question, r.variant, r.n_channels) for r in found.rows] == [
        (c.question, c.variant, c.n_channels) for c in ASKED
    ]
    assert {r.speedup.value for r in found.rows} == {2.0}
    assert all(r.is_noisy and r.noise_floor == 0.01 for r in found.rows)
    assert {s.n_threads for s in timer.settings} == {2}
    assert found.is_complete


def test_each_net_is_written_once() -> None:
    timer = FakeTimer()
    probe_cpu(timer=timer)
    nets = {net for c in ASKED for net in (c.baseline, c.candidate)}
    assert len({file for *files, _ in timer.asked for file in files}) == len(nets)


def test_a_comparison_that_fails_has_a_reason_and_the_others_go_on() -> None:
    found = probe_cpu(timer=FakeTimer(failing=3))
    assert found.unanswered == {ASKED[2].words: "no such kernel"}
    assert len(found.rows) == len(ASKED) - 1
    assert found.is_complete


def test_when_time_is_up_the_rest_is_not_asked(monkeypatch) -> None:
    now = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(now)))
    found = probe_cpu(seconds=5.0, timer=FakeTimer())
    assert 0 < len(found.rows) < 6
    assert set(found.unanswered.values()) == {NO_TIME}
    assert len(found.rows) + len(found.unanswered) == len(ASKED)
    assert not found.is_complete


def test_the_first_comparisons_leave_time_for_the_last() -> None:
    timer = FakeTimer()
    probe_cpu(seconds=60.0, timer=timer)
    assert timer.settings[0].max_seconds < 60.0 / len(ASKED)


def test_a_wider_float_precision_of_openvino_s_choice_is_timed(monkeypatch) -> None:
    monkeypatch.setattr(module, "default_precision_of", lambda model, n_threads: "bf16")
    found = probe_cpu(timer=FakeTimer())
    rows = found.rows_of("float_precision")
    assert (found.float_precision, {r.variant for r in rows}) == ("bf16", {"BF16"})
    assert {r.speedup.value for r in rows} == {1.5}


def test_a_float_precision_that_cannot_run_is_among_the_unanswered(monkeypatch) -> None:
    def refuse(model, n_threads):
        raise MeasurementError("no such instructions")

    monkeypatch.setattr(module, "default_precision_of", refuse)
    found = probe_cpu(timer=FakeTimer())
    assert found.float_precision == "f32"
    assert found.unanswered == {"precision of float layers": "no such instructions"}


def test_progress_is_told_before_each_and_at_the_end() -> None:
    told = []
    probe_cpu(on_progress=lambda *progress: told.append(progress), timer=FakeTimer())
    n = len(ASKED)
    assert [(done, of) for done, of, _ in told] == [(i, n) for i in range(n + 1)]
    assert told[0][2] == ASKED[0].words


@pytest.mark.parametrize(("n_threads", "seconds"), [(0, 60.0), (1, 0.0), (1, float("nan"))])
def test_arguments_out_of_range_are_refused(n_threads, seconds) -> None:
    with pytest.raises(MeasurementError, match=r"n_threads >= 1 and seconds > 0, but got"):
        probe_cpu(n_threads, seconds, timer=FakeTimer())


def test_no_answer_at_all_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(FakeTimer, "compare", lambda *_: (_ for _ in ()).throw(WorkFailedError("no kernels")))
    with pytest.raises(MeasurementError, match="no kernels"):
        probe_cpu(timer=FakeTimer())


def test_words_tell_comparisons_apart() -> None:
    assert len({c.words for c in comparisons()}) == len(comparisons())


def name_of(net: ProbeNet) -> str:
    layer = net.layers[0]
    form = f"W{layer.weight_bits}A{layer.activation_bits}-{layer.weight_granularity}-{layer.sparsity}"
    return f"{net.kind}-{net.n_channels}-{net.inner or net.n_channels}-{form}-{len(set(net.layers))}"


NETS = dict.fromkeys(net for c in comparisons() for net in (c.baseline, c.candidate))


@pytest.mark.parametrize("net", NETS, ids=name_of)
def test_the_nets_run_in_the_kernels_that_they_stand_for(net) -> None:
    compiled = compile_model(build(net), n_threads=1)
    wanted = ["f32" if r.activation_bits == 32 else "u1" if r.activation_bits == 1 else "I8" for r in net.layers]
    assert sorted(kernels_of(compiled)) == sorted(wanted)
    y = compiled(np.random.default_rng(1).random(net.input_shape, dtype=np.float32))[0]
    assert np.isfinite(y).all()
    assert 1e-3 < y.std() < 10


def test_four_bit_weights_are_stored_in_half_a_byte(tmp_path) -> None:
    sizes = {}
    for bits in (4, 8, 32):
        for activation_bits in {32, 8 if bits < 32 else 32}:
            net = ProbeNet("linear", 64, 1, (LayerRecipe(weight_bits=bits, activation_bits=activation_bits),))
            openvino.save_model(build(net), tmp_path / "net.xml", compress_to_fp16=False)
            sizes[bits, activation_bits] = (tmp_path / "net.bin").stat().st_size
    n = 64 * 64
    assert sizes[32, 32] >= 4 * n
    assert n <= sizes[8, 8] < 1.2 * n
    assert n / 2 <= sizes[4, 8] < 0.8 * n
    assert n / 2 <= sizes[4, 32] < 0.8 * n


@pytest.mark.parametrize("activation_bits", [8, 32])
def test_four_bit_weights_are_symmetric_around_zero(activation_bits) -> None:
    net = ProbeNet("linear", 64, 64, (LayerRecipe(weight_bits=4, activation_bits=activation_bits),))
    y = compile_model(build(net), 1)(np.eye(64, dtype=np.float32))[0]
    positive = y[y > 0]
    assert len(np.unique(np.round(positive, 4))) == 7
    assert 0.3 < len(positive) / y.size < 0.6


def test_narrow_inputs_have_their_steps_and_their_range() -> None:
    net = ProbeNet("depthwise", 8, 16, (LayerRecipe(weight_bits=8, activation_bits=4),))
    clamp = next(op for op in build(net).get_ops() if op.get_type_name() == "Clamp")
    quantizer = next(op for op in build(net).get_ops() if op.get_type_name() == "FakeQuantize")
    assert clamp.get_attributes()["max"] == LARGEST_INPUT
    assert quantizer.get_attributes()["levels"] == 256
    assert float(quantizer.input_value(2).get_node().data.item()) / 255 == pytest.approx(LARGEST_INPUT / 15)


def test_sparse_nets_have_their_zeros() -> None:
    net = ProbeNet("linear", 128, 1, (LayerRecipe(sparsity=0.7),))
    weight = max((op.data for op in build(net).get_ops() if op.get_type_name() == "Constant"), key=np.size)
    assert (weight == 0).mean() == pytest.approx(0.7, abs=0.03)


def test_inner_channels_alternate_with_the_outer_ones() -> None:
    net = ProbeNet("conv3x3", 16, 8, (FP32,) * 4, inner=12)
    shapes = [op.get_output_shape(0)[1] for op in build(net).get_ordered_ops() if op.get_type_name() == "Convolution"]
    assert shapes == [12, 16, 12, 16]


def test_a_few_rows_for_real(monkeypatch) -> None:
    few = [c for c in comparisons() if c.question in ("seven_bits", "per_tensor")]
    monkeypatch.setattr(module, "comparisons", lambda: few)
    monkeypatch.setattr(module, "_SHARE_OF_TIMING", 0.01)
    with LatencyProcess() as timer:
        found = probe_cpu(seconds=60.0, timer=timer)
    assert [r.question for r in found.rows] == ["seven_bits", "seven_bits", "per_tensor"]
    assert found.is_complete
    assert found.openvino in openvino.get_version()
