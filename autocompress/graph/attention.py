"""`nn.MultiheadAttention` as separate `nn.Linear` layers, which can be compressed like any other, and back again.

Torch's module keeps the weights of three maps in one parameter and uses those of `out_proj` without calling it, so
neither parametrizations nor hooks reach them. Both functions change the module object itself: every place, hook and
reference that holds it sees the new form.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

_PACKED = "in_proj_weight"
_SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
_PARAMETERS = {_PACKED, *_SEPARATE, "in_proj_bias"}
_EXTRA_ROWS = {"bias_k", "bias_v"}
_NESTED, _NESTED_WHEN_FOLDED = "use_nested_tensor", "use_nested_tensor_when_folded"
_INPUTS = ("query", "key", "value")
_Pieces = dict[nn.Parameter, Sequence[nn.Parameter | None]]
_Joined = dict[tuple[nn.Parameter | None, ...], nn.Parameter]


class UnfoldedAttention(nn.Module):
    """What `nn.MultiheadAttention` computes (Vaswani et al. 2017, section 3.2.2), with its maps as `nn.Linear`.

    Only `unfold_attention` makes it. It has the options of torch's module as attributes, `_qkv_same_embed_dim` False,
    so that `nn.TransformerEncoderLayer` calls it instead of its own fast path; and torch's weights, for reading, for
    a model that computes with them itself.

    Attributes:
        query: Map to (..., embed_dim).
        key: Map from kdim to (..., embed_dim).
        value: Map from vdim to (..., embed_dim).
        out_proj: Map from (..., embed_dim) to the output.
        bias_k: One more key for every sample, shape (1, 1, embed_dim), or None.
        bias_v: One more value for every sample, shape (1, 1, embed_dim), or None.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out_proj: nn.Linear
    bias_k: Tensor | None
    bias_v: Tensor | None
    embed_dim: int
    num_heads: int
    head_dim: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool
    _qkv_same_embed_dim: bool

    @property
    def q_proj_weight(self) -> Tensor:
        """Weight of `query`."""
        return self.query.weight

    @property
    def k_proj_weight(self) -> Tensor:
        """Weight of `key`."""
        return self.key.weight

    @property
    def v_proj_weight(self) -> Tensor:
        """Weight of `value`."""
        return self.value.weight

    @property
    def in_proj_weight(self) -> Tensor | None:
        """The three weights, shape (3 * embed_dim, embed_dim); None if their inputs differ in size."""
        weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        return torch.cat(weights) if len({weight.shape[1] for weight in weights}) == 1 else None

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The three biases, shape (3 * embed_dim,); None if there are none."""
        layers = [self.query, self.key, self.value]
        if all(layer.bias is None for layer in layers):
            return None
        return torch.cat([_bias_or_zeros(layer) for layer in layers])

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Output and weights of attention, as `nn.MultiheadAttention.forward` gives them.

        Args:
            query: Shape (L, E), (L, N, E), or (N, L, E) if `batch_first`.
            key: Shape (S, kdim), (S, N, kdim), or (N, S, kdim).
            value: Shape (S, vdim), (S, N, vdim), or (N, S, vdim).
            key_padding_mask: Shape (S,) or (N, S); True or -inf hides a key.
            need_weights: Whether the weights are wanted.
            attn_mask: Shape (L, S) or (N * num_heads, L, S); True or -inf hides a key from a query.
            average_attn_weights: Whether the weights are averaged over heads.
            is_causal: Promises that `attn_mask` is causal.

        Returns:
            Output, shape of `query` with `out_proj.out_features` columns; weights, shape (L, S) or (N, L, S), with
            an axis of heads before L unless averaged, or None.

        Raises:
            RuntimeError: `is_causal` without `attn_mask`.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal must come with attn_mask, but got None; give the causal mask too")
        heads = [self._heads(x) for x in (self.query(query), self.key(key), self.value(value))]
        q, k, v = heads[0], self._lengthened(heads[1], self.bias_k), self._lengthened(heads[2], self.bias_v)
        n_added = k.shape[-2] - heads[1].shape[-2]
        promised = is_causal and key_padding_mask is None and not need_weights
        mask = None if promised else _mask(attn_mask, key_padding_mask, self.num_heads, n_added, query.dtype)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            joined = self._joined(weights @ v, query.dim())
            weights = _reported(weights, average_attn_weights, query.dim())
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=promised)
            joined = self._joined(attended, query.dim())
        return self.out_proj(joined), weights

    def _heads(self, x: Tensor) -> Tensor:
        """(L, E), (L, N, E) or (N, L, E) as (N, heads, L, E / heads)."""
        split = torch.unflatten(x, -1, (self.num_heads, self.head_dim))
        if x.dim() == 2:
            split = split.unsqueeze(0)
        elif not self.batch_first:
            split = split.transpose(0, 1)
        return split.transpose(1, 2)

    def _joined(self, x: Tensor, n_axes: int) -> Tensor:
        """The inverse of `_heads` for an input of `n_axes` axes."""
        joined = x.transpose(1, 2).flatten(2)
        if n_axes == 2:
            return joined.squeeze(0)
        return joined if self.batch_first else joined.transpose(0, 1)

    def _lengthened(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values (N, heads, S, E / heads) with the learned row and the row of zeros after them, if wanted."""
        if bias is not None:
            row = torch.unflatten(bias, -1, (self.num_heads, self.head_dim)).transpose(1, 2)
            x = torch.cat([x, row.expand(x.shape[0], -1, -1, -1)], dim=2)
        if self.add_zero_attn:
            x = torch.cat([x, torch.zeros_like(x[:, :, :1])], dim=2)
        return x


def _bias_or_zeros(layer: nn.Linear) -> Tensor:
    bias: Tensor | None = layer.bias
    return layer.weight.new_zeros(layer.out_features) if bias is None else bias


def _mask(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, n_heads: int, n_added: int, dtype: torch.dtype
) -> Tensor | None:
    """What is added to the scores: both masks, broadcastable to (N, heads, L, S + n_added); None if there are none."""
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask[None, None] if attn_mask.dim() == 2 else torch.unflatten(attn_mask, 0, (-1, n_heads)))
    if key_padding_mask is not None:
        masks.append(key_padding_mask.reshape(-1, 1, 1, key_padding_mask.shape[-1]))
    added = [F.pad(_additive(mask, dtype), (0, n_added)) for mask in masks]
    return sum(added[1:], start=added[0]) if added else None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _reported(weights: Tensor, average: bool, n_axes: int) -> Tensor:
    averaged = weights.mean(dim=1) if average else weights
    return averaged.squeeze(0) if n_axes == 2 else averaged


def unfold_attention(model: nn.Module) -> None:
    """Turn every `nn.MultiheadAttention` of `model` into an `UnfoldedAttention` that computes the same.

    Left as they are: subclasses, whose forward may differ; modules with a forward of their own; modules whose weights
    are parametrized or whose `out_proj` was exchanged. Where `nn.TransformerEncoder` would have packed padded
    sequences into a nested tensor, outputs at padded positions are now those of training mode instead of zeros.

    Args:
        model: Module that is yours; changed. Weights keep their values, ties and `requires_grad`.
    """
    pieces: _Pieces = {}
    for module in list(model.modules()):
        if type(module) is nn.MultiheadAttention and _is_plain(module):
            _unfold(module, pieces)
    for module in model.modules():
        if (
            isinstance(module, nn.TransformerEncoder)
            and _has_unfolded(module)
            and _NESTED_WHEN_FOLDED not in vars(module)
        ):
            setattr(module, _NESTED_WHEN_FOLDED, getattr(module, _NESTED))
            setattr(module, _NESTED, False)


def _has_unfolded(module: nn.Module) -> bool:
    return any(isinstance(part, UnfoldedAttention) for part in module.modules())


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    maps = (_PACKED,) if attention._qkv_same_embed_dim else _SEPARATE
    own = attention._parameters
    out = attention.out_proj
    return (
        set(own) - _EXTRA_ROWS == _PARAMETERS
        and all(own.get(name) is not None for name in maps)
        and "forward" not in vars(attention)
        and type(out) in (nn.Linear, NonDynamicallyQuantizableLinear)
        and "weight" in out._parameters
    )


def _unfold(attention: nn.MultiheadAttention, pieces: _Pieces) -> None:
    own = attention._parameters
    weights = _split(own[_PACKED], pieces) or [own[name] for name in _SEPARATE]
    biases = _split(own["in_proj_bias"], pieces) or [None, None, None]
    out = attention.out_proj
    for name in (*_PARAMETERS, "out_proj"):
        delattr(attention, name)
    attention.__class__ = UnfoldedAttention  # type: ignore[assignment]
    attention._qkv_same_embed_dim = False
    named = zip((*_INPUTS, "out_proj"), (*weights, out.weight), (*biases, out.bias), strict=True)
    for name, weight, bias in named:
        setattr(attention, name, _linear(nn.Linear, weight, bias, attention.training))


def _split(packed: nn.Parameter | None, pieces: _Pieces) -> Sequence[nn.Parameter | None] | None:
    """Thirds of `packed` along axis 0 as parameters; the same ones where it was split before."""
    if packed is None:
        return None
    if packed not in pieces:
        thirds = packed.detach().chunk(3)
        pieces[packed] = [nn.Parameter(third.clone(), packed.requires_grad) for third in thirds]
    return pieces[packed]


def _linear(kind: type[nn.Linear], weight: Any, bias: Any, training: bool) -> nn.Linear:
    """A layer of these very parameters; chance is not touched, since nothing is initialized."""
    linear = kind(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight, linear.bias = weight, bias
    return linear.train(training)


def fold_attention(model: nn.Module) -> None:
    """Turn every `UnfoldedAttention` of `model` back into `nn.MultiheadAttention`: the inverse of `unfold_attention`.

    Left as they are, since torch's module cannot hold them: those with a map that is no plain `nn.Linear`, such as a
    parametrized one, and those whose input or output is narrower than their heads, as filter pruning leaves them.

    Args:
        model: Module that is yours; changed.
    """
    joined: _Joined = {}
    for module in list(model.modules()):
        if isinstance(module, UnfoldedAttention) and _can_fold(module):
            _fold(module, joined)
    for module in model.modules():
        if _NESTED_WHEN_FOLDED in vars(module) and not _has_unfolded(module):
            setattr(module, _NESTED, getattr(module, _NESTED_WHEN_FOLDED))
            delattr(module, _NESTED_WHEN_FOLDED)


def _can_fold(attention: UnfoldedAttention) -> bool:
    maps: list[Any] = [attention.query, attention.key, attention.value, attention.out_proj]
    if any(type(layer) is not nn.Linear or layer._forward_pre_hooks or layer._forward_hooks for layer in maps):
        return False
    sizes = [*(layer.out_features for layer in maps), maps[0].in_features, maps[3].in_features]
    return all(size == attention.embed_dim for size in sizes)


def _fold(attention: UnfoldedAttention, joined: _Joined) -> None:
    maps: list[Any] = [attention.query, attention.key, attention.value]
    out = attention.out_proj
    is_packed = all(layer.in_features == attention.embed_dim for layer in maps)
    biases = [layer.bias for layer in maps]
    for name in (*_INPUTS, "out_proj"):
        delattr(attention, name)
    attention.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
    attention._qkv_same_embed_dim = is_packed
    attention.kdim, attention.vdim = maps[1].in_features, maps[2].in_features
    weights = [layer.weight for layer in maps]
    packed = _join(weights, weights, joined) if is_packed else None
    separate = (None, None, None) if is_packed else weights
    bias = _join(biases, weights, joined) if any(b is not None for b in biases) else None
    named = [(_PACKED, packed), *zip(_SEPARATE, separate, strict=True), ("in_proj_bias", bias)]
    kept = dict(attention._parameters)
    attention._parameters.clear()
    for name, parameter in chain(named, kept.items()):
        attention.register_parameter(name, parameter)
    attention.out_proj = _linear(NonDynamicallyQuantizableLinear, out.weight, out.bias, attention.training)


def _join(parts: Sequence[nn.Parameter | None], weights: Sequence[nn.Parameter], joined: _Joined) -> nn.Parameter:
    """`parts` one after the other, zeros for one that is missing; the same parameter where they were joined before."""
    key = tuple(parts)
    if key not in joined:
        filled = [w.new_zeros(len(w)) if p is None else p.detach() for p, w in zip(parts, weights, strict=True)]
        joined[key] = nn.Parameter(torch.cat(filled), any(p is not None and p.requires_grad for p in parts))
    return joined[key]
