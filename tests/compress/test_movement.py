"""Movement masks: gradients of scores against the formula; rows and heads as units, with their biases."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress.attaching import freeze_parametrizations
from autocompress.compress.mask_attaching import attached_mask
from autocompress.compress.movement import MovementMask
from autocompress.compress.sparsity_training import attach_masks, mask_parameters, masks
from autocompress.errors import CompressionError
from autocompress.recipe import Sparsification

ROWS = Sparsification(method="movement", structure="rows")
SHARED = dict.fromkeys(("query", "key", "value"), ("attention", 2))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Attention(nn.Module):
    def __init__(self, n_key_rows: int = 8) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(6, 8), nn.Linear(6, n_key_rows), nn.Linear(6, 8, bias=False)
        with torch.no_grad():
            for k, parameter in enumerate(self.parameters()):
                parameter.copy_(random(*parameter.shape, seed=k))


def learning(mask: MovementMask) -> MovementMask:
    mask.learning = True
    mask.mask.copy_(torch.arange(mask.mask.numel()).reshape(mask.mask.shape) % 3 > 0)
    return mask


def test_scores_get_the_gradient_of_the_masked_weight_times_the_weight() -> None:
    weight, incoming = random(4, 5).requires_grad_(), random(4, 5, seed=1)
    mask = learning(MovementMask([weight]))
    masked = mask(weight)
    (masked * incoming).sum().backward()
    assert torch.equal(masked, weight.detach() * mask.mask)
    assert torch.equal(mask.scores.grad, incoming * weight.detach())
    assert torch.equal(weight.grad, incoming * mask.mask)


def test_a_row_gets_the_sum_over_its_weights_and_its_bias() -> None:
    weight, bias = random(4, 5).requires_grad_(), random(4, seed=1).requires_grad_()
    into_weight, into_bias = random(4, 5, seed=2), random(4, seed=3)
    mask = learning(MovementMask([weight], block_size=1))
    ((mask(weight) * into_weight).sum() + (mask(bias) * into_bias).sum()).backward()
    wanted = (into_weight * weight).sum(dim=1) + into_bias * bias
    assert torch.allclose(mask.scores.grad, wanted.detach())
    assert torch.equal(bias.grad, into_bias * mask.mask)


def test_a_head_gets_the_sum_over_query_key_and_value() -> None:
    module = Attention()
    attach_masks(module, dict.fromkeys(SHARED, 0.5), ROWS, SHARED)
    mask = attached_mask(module.query)
    mask.learning = True
    wanted = torch.zeros(4)
    total = torch.zeros(())
    for k, (name, layer) in enumerate(module.named_children()):
        incoming = random(8, 6, seed=10 + k)
        total = total + (layer.weight * incoming).sum() + (0.0 if name == "value" else layer.bias.sum())
        plain = layer.parametrizations.weight.original.detach()
        of_rows = (plain * incoming).sum(dim=1)
        of_rows = of_rows if name == "value" else of_rows + layer.parametrizations.bias.original.detach()
        wanted += of_rows.reshape(4, 2).sum(dim=1)
    total.backward()
    assert torch.allclose(mask.scores.grad, wanted, atol=1e-5)


def test_scores_start_as_small_multiples_of_the_mean_magnitude_of_a_unit() -> None:
    first, second = random(6, 4), 3 * random(6, 4, seed=1)
    wanted = (first.abs().reshape(3, 8).mean(dim=1) + second.abs().reshape(3, 8).mean(dim=1)) / 2
    assert torch.allclose(MovementMask([first, second], block_size=2).scores, 1e-3 * wanted)
    assert torch.allclose(MovementMask([first]).scores, 1e-3 * first.abs())


def test_rows_of_least_mean_magnitude_go_first_and_take_their_bias_along() -> None:
    module = nn.Sequential(nn.Linear(5, 10))
    means = module[0].weight.detach().abs().mean(dim=1)
    attach_masks(module, {"0": 0.3}, ROWS)
    gone = (module[0].weight == 0).all(dim=1)
    assert set(gone.nonzero().flatten().tolist()) == set(means.argsort()[:3].tolist())
    assert torch.equal(module[0].bias == 0, gone)


def test_heads_of_query_key_and_value_go_together() -> None:
    module = Attention()
    magnitude = sum(layer.weight.detach().abs().reshape(4, 12).sum(dim=1) for layer in module.children())
    attach_masks(module, dict.fromkeys(SHARED, 0.5), ROWS, SHARED)
    gone = [(layer.weight == 0).all(dim=1).reshape(4, 2).all(dim=1) for layer in module.children()]
    assert set(gone[0].nonzero().flatten().tolist()) == set(magnitude.argsort()[:2].tolist())
    assert torch.equal(gone[0], gone[1])
    assert torch.equal(gone[0], gone[2])
    assert len(mask_parameters(module)) == 1


def test_a_layer_without_heads_goes_row_by_row_beside_one_with_heads() -> None:
    module = Attention()
    attach_masks(module, {"query": 0.5, "value": 0.5}, ROWS, {"query": ("attention", 2)})
    assert [mask.n_units for _, _, mask in masks(module)] == [4, 8]


def test_one_row_or_head_always_stays() -> None:
    module = Attention()
    attach_masks(module, dict.fromkeys(SHARED, 0.99), ROWS, SHARED)
    assert int(attached_mask(module.query).mask.sum()) == 1


@pytest.mark.parametrize(
    ("module", "sparse", "blocks", "said"),
    [
        pytest.param(Attention(), {"query": 0.5, "key": 0.25}, SHARED, "same sparsity", id="two sparsities"),
        pytest.param(
            Attention(), {"query": 0.5}, {"query": ("a", 3)}, "'query' has 8 rows", id="heads that do not fit"
        ),
        pytest.param(Attention(4), {"query": 0.5, "key": 0.5}, SHARED, "as many rows", id="fewer heads of keys"),
    ],
)
def test_heads_that_cannot_go_together_are_refused(
    module: nn.Module, sparse: dict[str, float], blocks: dict[str, tuple[str, int]], said: str
) -> None:
    with pytest.raises(CompressionError, match=said):
        attach_masks(module, sparse, ROWS, blocks)


def test_masks_name_every_layer_that_shares_one() -> None:
    module = Attention()
    attach_masks(module, dict.fromkeys(SHARED, 0.5), ROWS, SHARED)
    assert [name for name, _, _ in masks(module)] == ["query", "key", "value"]


def test_a_state_with_shared_scores_comes_back() -> None:
    first, second = Attention(), Attention()
    for k, module in enumerate((first, second)):
        attach_masks(module, dict.fromkeys(SHARED, 0.25 * (k + 1)), ROWS, SHARED)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.key.weight, first.key.weight)
    assert torch.equal(second.key.bias, first.key.bias)


def test_the_weight_of_masked_rows_becomes_permanent() -> None:
    module = nn.Sequential(nn.Linear(5, 10))
    attach_masks(module, {"0": 0.3}, ROWS)
    before = module[0].weight.detach().clone()
    freeze_parametrizations(module)
    assert torch.equal(module[0].weight, before)
