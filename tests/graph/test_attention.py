"""Attention with its maps as layers computes what torch's module computes, and can be turned back."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from autocompress.graph import UnfoldedAttention, fold_attention, unfold_attention

L, S, N = 5, 4, 3

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("plain", {}),
    ("batch first", {"batch_first": True}),
    ("one head", {"num_heads": 1}),
    ("no bias", {"bias": False}),
    ("other sizes of key and value", {"kdim": 6, "vdim": 10, "batch_first": True}),
    ("another size of key", {"kdim": 6}),
    ("other sizes without bias", {"kdim": 6, "vdim": 10, "bias": False}),
    ("learned rows", {"add_bias_kv": True}),
    ("a row of zeros", {"add_zero_attn": True, "batch_first": True}),
    ("both rows", {"add_bias_kv": True, "add_zero_attn": True}),
]
forms = pytest.mark.parametrize("options", [pytest.param(options, id=name) for name, options in FORMS])

nested_tensors_warn = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")


def attention(**options: Any) -> nn.MultiheadAttention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.MultiheadAttention(8, options.pop("num_heads", 2), **options, dtype=torch.float64)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module.eval()


def unfolded(model: nn.Module) -> Any:
    model = copy.deepcopy(model)
    unfold_attention(model)
    return model


def tensors(module: nn.MultiheadAttention, n_axes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(L, N, 8), (S, N, module.kdim), (S, N, module.vdim)]
    found = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if n_axes == 2:
        found = [x[:, 0] for x in found]
    elif module.batch_first:
        found = [x.transpose(0, 1) for x in found]
    return found[0], found[1], found[2]


def masks(n_axes: int, n_heads: int, *, floats: bool, each_head: bool) -> tuple[Tensor, Tensor]:
    """A mask of scores and one of keys; no query is left without a key."""
    n = N if n_axes == 3 else 1
    scores = torch.rand((n * n_heads, L, S) if each_head else (L, S), generator=torch.Generator().manual_seed(2)) < 0.4
    keys = torch.zeros((N, S) if n_axes == 3 else (S,), dtype=torch.bool)
    scores[..., 0], keys[..., -1] = False, True
    if floats:
        return scores.double() * -1.5, keys.double().masked_fill(keys, -math.inf)
    return scores, keys


def assert_same(module: nn.Module, other: nn.Module, *inputs: Any, **options: Any) -> None:
    expected, got = module(*inputs, **options), other(*inputs, **options)
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape
            torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)


@forms
@pytest.mark.parametrize("n_axes", [2, 3], ids=["unbatched", "batched"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
def test_outputs_and_weights_are_those_of_torch(options: dict[str, Any], n_axes: int, grad: bool) -> None:
    module = attention(**options)
    with torch.set_grad_enabled(grad):
        for wanted in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            assert_same(module, unfolded(module), *tensors(module, n_axes), **wanted)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([options for _, options in FORMS]),
    st.sampled_from([2, 3]),
    st.fixed_dictionaries({name: st.booleans() for name in ("need_weights", "average_attn_weights")}),
    st.fixed_dictionaries({name: st.booleans() for name in ("floats", "each_head")}),
    st.sampled_from(["attn_mask", "key_padding_mask", "both"]),
)
def test_masks_mean_what_they_mean_in_torch(
    options: dict[str, Any], n_axes: int, wanted: dict[str, bool], kind: dict[str, bool], given_masks: str
) -> None:
    module = attention(**options)
    both = dict(zip(("attn_mask", "key_padding_mask"), masks(n_axes, module.num_heads, **kind), strict=True))
    chosen = both if given_masks == "both" else {given_masks: both[given_masks]}
    assert_same(module, unfolded(module), *tensors(module, n_axes), **chosen, **wanted)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_causal_mask_is_kept(need_weights: bool, padded: bool) -> None:
    module = attention()
    x = tensors(module)[0]
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    options: dict[str, Any] = {"attn_mask": causal, "is_causal": True, "need_weights": need_weights}
    if padded:
        options["key_padding_mask"] = torch.zeros(N, L, dtype=torch.float64)
    assert_same(module, unfolded(module), x, x, x, **options)
    assert unfolded(module)(x, x, x, **options)[0][0].sub(unfolded(module)(x, x, x)[0][0]).abs().max() > 0.1


def test_a_promise_without_a_mask_is_refused() -> None:
    x = tensors(attention())[0]
    with pytest.raises(RuntimeError, match="is_causal must come with attn_mask"):
        unfolded(attention())(x, x, x, is_causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_and_gradients_are_those_of_torch(need_weights: bool) -> None:
    module = attention(dropout=0.4, batch_first=True).train()
    other = unfolded(module)
    for each in (module, other):
        torch.manual_seed(5)
        each(*tensors(module), need_weights=need_weights)[0].square().sum().backward()
    packed = torch.cat([other.query.weight.grad, other.key.weight.grad, other.value.weight.grad])
    torch.testing.assert_close(packed, module.in_proj_weight.grad, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(other.out_proj.weight.grad, module.out_proj.weight.grad, rtol=1e-9, atol=1e-9)


def test_attention_by_the_definition() -> None:
    """softmax(q k / sqrt(d)) v, one head and one query at a time (Vaswani et al. 2017, equation 1)."""
    module = attention()
    x = tensors(module)[0].detach().numpy()
    w, b = (
        module.in_proj_weight.detach().numpy().reshape(3, 2, 4, 8),
        module.in_proj_bias.detach().numpy().reshape(3, 2, 4),
    )
    joined = np.zeros((L, N, 8))
    for n in range(N):
        for head in range(2):
            q, k, v = (x[:, n] @ w[i, head].T + b[i, head] for i in range(3))
            for row in range(L):
                scores = np.exp([q[row] @ k[j] / math.sqrt(4) for j in range(L)])
                joined[row, n, 4 * head : 4 * head + 4] = (scores / scores.sum()) @ v
    out = joined @ module.out_proj.weight.detach().numpy().T + module.out_proj.bias.detach().numpy()
    same = torch.from_numpy(x)
    np.testing.assert_allclose(unfolded(module)(same, same, same)[0].detach().numpy(), out, rtol=1e-9)


def encoder(batch_first: bool, norm_first: bool = False, n_layers: int = 2) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first, dtype=torch.float64)
    return nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=batch_first and not norm_first).eval()


def decoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first, dtype=torch.float64)
    return nn.TransformerDecoder(layer, 2).eval()


@nested_tensors_warn
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_encoders_compute_the_same_at_all_real_positions(grad: bool, batch_first: bool, masked: bool) -> None:
    model = encoder(batch_first)
    x = torch.randn(N, L, 8, dtype=torch.float64)
    padding = torch.arange(L) >= torch.tensor([5, 4, 2])[:, None] if masked else None
    with torch.set_grad_enabled(grad):
        outputs = [
            each(x if batch_first else x.transpose(0, 1), src_key_padding_mask=padding)
            for each in (model, unfolded(model))
        ]
    expected, got = (out if batch_first else out.transpose(0, 1) for out in outputs)
    real = ~padding if masked else slice(None)
    torch.testing.assert_close(got[real], expected[real], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("batch_first", [True, False])
def test_decoders_and_norm_first_layers_compute_the_same(batch_first: bool) -> None:
    x, memory = torch.randn(L, L, 8, dtype=torch.float64), torch.randn(L, L, 8, dtype=torch.float64)
    mask = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    with torch.no_grad():
        for model, inputs, options in (
            (decoder(batch_first), (x, memory), {"tgt_mask": mask, "tgt_is_causal": True}),
            (encoder(batch_first, norm_first=True), (x,), {"mask": mask}),
        ):
            torch.testing.assert_close(unfolded(model)(*inputs, **options), model(*inputs, **options))


def test_the_maps_are_plain_layers_in_order_and_chance_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    other = unfolded(attention())
    assert [(name, type(child)) for name, child in other.named_children()] == [
        (name, nn.Linear) for name in ("query", "key", "value", "out_proj")
    ]
    assert torch.equal(torch.random.get_rng_state(), before)


@forms
def test_a_round_trip_is_exact(options: dict[str, Any]) -> None:
    module = attention(**options)
    again = unfolded(module)
    fold_attention(again)
    assert type(again) is nn.MultiheadAttention
    assert set(vars(again)) == set(vars(module))
    assert {k: v for k, v in vars(again).items() if k[0] != "_"} == {
        k: v for k, v in vars(module).items() if k[0] != "_"
    }
    assert [*again.state_dict()] == [*module.state_dict()]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), module.parameters(), strict=True))
    assert type(again.out_proj) is type(module.out_proj)
    inputs = tensors(module)
    assert torch.equal(again(*inputs)[0], module(*inputs)[0])


@nested_tensors_warn
def test_a_round_trip_of_an_encoder_takes_the_fast_path_again() -> None:
    model = encoder(batch_first=True)
    again = unfolded(model)
    unfold_attention(again)
    fold_attention(again)
    assert vars(again).keys() == vars(model).keys()
    x, padding = torch.randn(2, L, 8, dtype=torch.float64), torch.tensor([[False] * L, [False] * (L - 1) + [True]])
    with torch.no_grad():
        assert torch.equal(again(x, src_key_padding_mask=padding), model(x, src_key_padding_mask=padding))
        assert again(x, src_key_padding_mask=padding)[1, -1].abs().max() == 0


def test_a_shared_module_is_unfolded_once_with_its_hooks() -> None:
    model = nn.ModuleDict({"a": attention()})
    model["b"] = model["a"]
    calls: list[int] = []
    model["a"].register_forward_hook(lambda *_: calls.append(1))
    unfold_attention(model)
    assert model["a"] is model["b"]
    assert isinstance(model["a"], UnfoldedAttention)
    x = tensors(attention())[0]
    model["b"](x, x, x)
    assert calls == [1]


def test_ties_and_frozen_weights_survive_both_ways() -> None:
    model = nn.ModuleList([attention(), attention()])
    model[1].in_proj_weight, model[1].out_proj.weight = model[0].in_proj_weight, model[0].out_proj.weight
    model[0].in_proj_weight.requires_grad_(False)
    other = unfolded(model)
    assert other[0].key.weight is other[1].key.weight
    assert other[0].out_proj.weight is other[1].out_proj.weight
    assert not other[0].key.weight.requires_grad
    assert other[0].key.bias.requires_grad
    fold_attention(other)
    assert other[0].in_proj_weight is other[1].in_proj_weight
    assert not other[0].in_proj_weight.requires_grad


def test_the_mode_and_the_caller_stay() -> None:
    module = attention().train()
    assert all(part.training for part in unfolded(module).modules())
    assert type(module) is nn.MultiheadAttention


class Own(nn.MultiheadAttention):
    pass


def with_own_forward() -> nn.Module:
    module = attention()
    module.forward = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def with_another_output() -> nn.Module:
    module = attention()
    module.out_proj = nn.Sequential(nn.Linear(8, 8))  # type: ignore[assignment]
    return module


LEFT: list[tuple[str, Callable[[], nn.Module]]] = [
    ("a subclass", lambda: Own(8, 2)),
    ("a forward of its own", with_own_forward),
    ("a parametrized packed weight", lambda: parametrizations.weight_norm(attention(), "in_proj_weight")),
    ("an old weight norm", lambda: nn.utils.weight_norm(attention(), "in_proj_weight")),
    ("another output map", with_another_output),
]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in LEFT])
def test_what_may_compute_something_else_is_left_alone(make: Callable[[], nn.Module]) -> None:
    module = make()
    kind, names = type(module), [name for name, _ in module.named_modules()]
    unfold_attention(module)
    assert type(module) is kind
    assert [name for name, _ in module.named_modules()] == names


class Negated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


@pytest.mark.parametrize("change", ["parametrized", "replaced", "hooked", "narrower"])
def test_what_torch_cannot_hold_stays_unfolded(change: str) -> None:
    other = unfolded(attention())
    if change == "parametrized":
        parametrize.register_parametrization(other.key, "weight", Negated())
    elif change == "replaced":
        other.key = nn.Sequential(nn.Linear(8, 2), nn.Linear(2, 8))
    elif change == "hooked":
        other.key.register_forward_pre_hook(lambda _, inputs: inputs)
    else:
        other.query, other.key, other.value = (nn.Linear(6, 8) for _ in range(3))
    fold_attention(other)
    assert isinstance(other, UnfoldedAttention)


def test_weights_that_were_changed_are_in_the_folded_module() -> None:
    other = unfolded(attention(bias=False))
    with torch.no_grad():
        other.value.weight.mul_(2)
    other.key.bias = nn.Parameter(torch.ones(8, dtype=torch.float64))
    inputs = tensors(attention())
    expected = other(*inputs)[0]
    fold_attention(other)
    assert type(other) is nn.MultiheadAttention
    torch.testing.assert_close(other(*inputs)[0], expected)
