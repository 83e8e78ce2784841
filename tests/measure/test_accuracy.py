"""Outputs and score of deployed models."""

from dataclasses import replace
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset1
from openvino import opset13 as ops
from torch import Tensor, nn

from autocompress import Score
from autocompress.deploy import to_openvino
from autocompress.errors import MeasurementError
from autocompress.latency import compile_model
from autocompress.measure import Predictions, predict_deployed, predict_torch, score_of, split_for_choice
from autocompress.measure.inference import BatchRunner
from tests.tiny import tiny


def predictions(n_wrong: int, n: int = 400, seed: int = 0) -> Predictions:
    targets = torch.arange(n) % 4
    outputs = torch.nn.functional.one_hot(targets, 4).float()
    wrong = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:n_wrong]
    outputs[wrong] = outputs[wrong].roll(1, dims=1)
    return Predictions(outputs, targets)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(value: float) -> None:
    task = replace(tiny(), score=Score(lambda *_: value))
    with pytest.raises(MeasurementError, match="must be a finite number, but got (nan|inf)"):
        score_of(task, predictions(1))


def test_a_score_that_raises_is_one_sentence() -> None:
    def broken(*_: Any) -> float:
        raise KeyError("logits")

    with pytest.raises(MeasurementError, match="fails: KeyError"):
        score_of(replace(tiny(), score=Score(broken)), predictions(1))


def _ir(batch: str) -> openvino.Model:
    """Doubles its input, exported for shape (2, 3).

    A Reshape fixes the batch (`own size`), or none does (`any`).
    """
    x = ops.parameter([2, 3], np.float32, name="x")
    y = ops.reshape(x, ops.constant(np.array([2, 3])), False) if batch == "own size" else x
    return openvino.Model([ops.multiply(y, ops.constant(np.float32(2)))], [x], "twice")


def _binary() -> openvino.Model:
    """A BinaryConvolution, for which OpenVINO has kernels of static shapes only."""
    signs = torch.randint(0, 2, (8, 8, 3, 3), generator=torch.Generator().manual_seed(0)).bool().numpy()
    x = ops.parameter([1, 8, 5, 5], np.float32, name="x")
    quantized = ops.fake_quantize(x, *(ops.constant(np.float32(v)) for v in (0, 0, 0, 1)), 2)
    bits = openvino.Tensor(
        np.packbits(signs.reshape(-1), bitorder="little"), openvino.Shape(signs.shape), openvino.Type.u1
    )
    packed = openvino.op.Constant(bits, False)
    y = opset1.binary_convolution(quantized, packed, [1, 1], [0, 0], [0, 0], [1, 1], "xnor-popcount", 0.0)
    return openvino.Model([y], [x], "binary")


SIZES = [pytest.param(sizes, id=str(sizes)) for sizes in ([7], [4, 3], [1] * 7, [150, 1, 70], [64, 64], [3, 0, 4])]


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("batch", ["any", "own size"])
@pytest.mark.parametrize("sizes", SIZES)
def test_batches_of_any_size_are_predicted_whole_and_in_order(sizes: list[int], batch: str, n_threads: int) -> None:
    x = torch.arange(3 * sum(sizes), dtype=torch.float32).reshape(-1, 3)
    batches = [(part, part[:, 0]) for part in x.split(sizes)]
    found = predict_deployed(_ir(batch), batches, torch.zeros(1, 3), "validation", n_threads)
    assert torch.equal(found.outputs, 2 * x)
    assert torch.equal(found.targets, x[:, 0])


def test_kernels_of_static_shapes_run_several_samples_at_once() -> None:
    model = _binary()
    x = torch.randn(45, 8, 5, 5, generator=torch.Generator().manual_seed(1))
    one = compile_model(model, 1)
    expected = torch.cat([torch.from_numpy(one([sample.numpy()])[0].copy()) for sample in x.split(1)])
    found = predict_deployed(model, [(x[:40], x[:40]), (x[40:], x[40:])], expected[:1], "validation", 1)
    assert torch.equal(found.outputs, expected)
    assert len(expected.unique()) > 5
    assert _portion_of(model, x.numpy()) == (32, True)


def _portion_of(model: openvino.Model, x: np.ndarray) -> tuple[int, bool]:
    runner = BatchRunner(model, 1)
    runner([[x]])
    assert runner._compiled is not None
    return runner._compiled.portion, runner._compiled.is_padded


@pytest.mark.parametrize(("values", "portion"), [(3, 64), (100_000, 10), (10_000_000, 1)])
def test_large_samples_go_in_small_portions(values: int, portion: int) -> None:
    x = ops.parameter([1, values], np.float32, name="x")
    model = openvino.Model([ops.reduce_sum(x, ops.constant([1]))], [x], "sum")
    assert _portion_of(model, np.zeros((1, values), np.float32)) == (portion, False)


def test_outputs_that_are_not_by_sample_keep_the_users_batches() -> None:
    x = ops.parameter([2, 3], np.float32, name="x")
    model = openvino.Model([ops.reduce_sum(x, ops.constant([0, 1]))], [x], "total")
    data = torch.arange(210, dtype=torch.float32).reshape(70, 3)
    batches = [(data[:66], torch.zeros(1)), (data[66:], torch.zeros(1))]
    found = predict_deployed(model, batches, torch.zeros(()), "validation", 2)
    assert found.outputs.tolist() == [float(data[:66].sum()), float(data[66:].sum())]


class Words(nn.Module):
    """Embedded tokens, weighted by a mask and averaged: any length of sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens)
        weights = self.attention(x) @ x.transpose(1, 2)
        weights = weights.masked_fill(mask[:, None] == 0, float("-inf")).softmax(dim=-1)
        mean = (weights @ x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return {"logits": self.head(mean)}


def _sentences(lengths: list[int], size: int = 5) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    batches = []
    for length in lengths:
        mask = (torch.arange(length)[None] < torch.randint(1, length + 1, (size, 1), generator=generator)).long()
        tokens = torch.randint(0, 30, (size, length), generator=generator)
        batches.append(({"tokens": tokens, "mask": mask}, torch.zeros(size)))
    return batches


@pytest.mark.parametrize("lengths", [[12, 9], [9, 12, 9, 20], [12, 12]], ids=str)
def test_batches_padded_to_lengths_of_their_own_are_predicted(lengths: list[int]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Words().eval()
    batches = _sentences(lengths)
    model = to_openvino(module, {name: x[:1] for name, x in _sentences([12])[0][0].items()})
    expected = predict_torch(module, batches, "validation")
    found = predict_deployed(model, batches, expected.outputs, "validation", 2)
    assert torch.allclose(found.outputs["logits"], expected.outputs["logits"], atol=1e-5)


def test_a_length_that_the_model_does_not_allow_is_refused() -> None:
    model = to_openvino(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.zeros(1, 3, 4))
    with pytest.raises(MeasurementError, match=r"exported for inputs of shape .*takes no batch of shape \(2, 3, 5\)"):
        predict_deployed(model, [(torch.zeros(2, 3, 5), torch.zeros(2))], torch.zeros(1, 2), "validation", 1)


def test_rows_that_are_not_samples_are_refused_at_another_length() -> None:
    model = to_openvino(nn.Sequential(nn.Flatten(0, 1), nn.Flatten(0), nn.Unflatten(0, (-1, 12))), torch.zeros(1, 3, 4))
    with pytest.raises(MeasurementError, match="takes no batch of shape"):
        predict_deployed(model, [(torch.zeros(4, 3, 6), torch.zeros(4))], torch.zeros(1, 12), "validation", 1)


@pytest.mark.parametrize("inputs", [torch.zeros(2, 3, 1), (torch.zeros(2, 3), torch.zeros(2, 3))], ids=["axes", "two"])
def test_inputs_of_another_kind_are_refused(inputs: Any) -> None:
    with pytest.raises(MeasurementError, match="deployed model"):
        predict_deployed(_ir("any"), [(inputs, torch.zeros(2))], torch.zeros(1, 3), "validation", 1)


def test_the_callers_model_is_not_changed() -> None:
    model = _ir("any")
    predict_deployed(model, [(torch.zeros(5, 3), torch.zeros(5))], torch.zeros(1, 3), "validation", 1)
    assert str(model.inputs[0].partial_shape) == "[2,3]"


def test_an_error_of_the_users_data_is_not_called_an_error_of_inference() -> None:
    def batches() -> Any:
        yield torch.zeros(5, 3), torch.zeros(5)
        raise RuntimeError("disk is gone")

    with pytest.raises(RuntimeError, match="disk is gone"):
        predict_deployed(_ir("any"), batches(), torch.zeros(1, 3), "validation", 1)


def test_data_without_batches_is_refused() -> None:
    with pytest.raises(MeasurementError, match="validation data has no batches"):
        predict_deployed(_ir("any"), [], torch.zeros(1, 3), "validation", 1)


@pytest.mark.parametrize("n", [200, 333, 1000])
def test_the_samples_for_the_choice_are_the_others_and_always_the_same(n: int) -> None:
    marked = Predictions(torch.arange(n).float()[:, None], torch.arange(n))
    search, choice = split_for_choice(marked)
    assert sorted([*search.targets.tolist(), *choice.targets.tolist()]) == list(range(n))
    assert choice.n_samples == pytest.approx(0.7 * n, abs=1)
    for part in (search, choice):
        assert torch.equal(part.outputs[:, 0].long(), part.targets)
    assert torch.equal(split_for_choice(marked)[1].targets, choice.targets)


def test_sorted_classes_are_in_both_parts() -> None:
    search, choice = split_for_choice(Predictions(torch.zeros(400, 4), torch.arange(400) // 100))
    assert all(len(torch.unique(part.targets)) == 4 for part in (search, choice))
