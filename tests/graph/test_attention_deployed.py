"""Attention with its maps as layers survives being read, copied, pickled and deployed."""

import copy
import pickle

import numpy as np
import onnxruntime
import openvino
import pytest
import torch

from tests.graph.test_attention import attention, tensors, unfolded
from tests.nets import NETS


def test_a_model_that_computes_with_the_weights_itself_still_runs() -> None:
    module = attention()
    other = unfolded(module)
    assert torch.equal(other.in_proj_weight, module.in_proj_weight)
    assert torch.equal(other.in_proj_bias, module.in_proj_bias)
    apart = unfolded(attention(kdim=6, bias=False))
    assert apart.in_proj_weight is None
    assert apart.in_proj_bias is None
    assert torch.equal(apart.k_proj_weight, attention(kdim=6, bias=False).k_proj_weight)


def test_copies_and_pickles_compute_the_same() -> None:
    other = unfolded(attention())
    inputs = tensors(attention())
    for copied in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert torch.equal(copied(*inputs)[0], other(*inputs)[0])


def test_openvino_computes_what_torch_computes() -> None:
    net = NETS["encoder"]
    model = unfolded(net.build())
    with torch.no_grad():
        converted = openvino.convert_model(model, example_input=net.inputs(1))
    compiled = openvino.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    x = net.inputs(2)
    with torch.no_grad():
        np.testing.assert_allclose(compiled(x.numpy())[0], net.build()(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_computes_what_torch_computes() -> None:
    net = NETS["attention"]
    x = net.inputs(1)
    program = torch.onnx.export(unfolded(net.build()), (x,), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    with torch.no_grad():
        expected = net.build()(x).numpy()
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0], expected, atol=1e-5)
