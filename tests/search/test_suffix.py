"""Changed copies run from their first change on, and give what they would give anyway."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compress import calibrate, compress
from autocompress.graph import ModelGraph, inspect_model
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search.call_order import call_order, changed_modules, same_values
from autocompress.search.suffix import PrefixCache
from autocompress.task import call
from autocompress.train import adapt_batch_norm
from tests.architectures import ARCHITECTURES
from tests.nets import NETS

MODELS = {
    **{name: NETS[name] for name in ("residual", "dict", "shared", "attention", "encoder", "tied", "weight_norm")},
    **{name: ARCHITECTURES[name] for name in ("shared_block", "gru", "gpt")},
}


class Bench:
    """A model with the cache of its first runs: two batches for statistics, three for outputs."""

    def __init__(self, net: Any, max_bytes: float = 1e9) -> None:
        model, self.example = net.build(), net.inputs()
        self.batches = [net.inputs(4, seed=seed) for seed in (1, 2, 3)]
        self.train = [(inputs, 0) for inputs in self.batches[:2]]
        self.graph: ModelGraph = inspect_model(model, self.example)
        self.adapted = copy.deepcopy(model)
        adapt_batch_norm(self.adapted, self.train)
        reference = self.compressed(Recipe())
        self.cache = PrefixCache(reference, [x.name for x in self.graph.layers], self.batches[0], 5, max_bytes)
        with torch.no_grad(), self.cache.recording():
            adapt_batch_norm(reference, self.train)
            for batch in self.batches:
                call(reference, batch)

    def compressed(self, recipe: Recipe) -> nn.Module:
        return compress(self.adapted, self.graph, recipe, self.example).module

    def outputs(self, recipe: Recipe, with_cache: bool) -> tuple[list[Any], set[str], dict[str, Tensor]]:
        """Outputs, names of the layers that ran for them, and all tensors of the model afterwards."""
        module, ran = self.compressed(recipe), set[str]()
        with self.cache.skipping(module) if with_cache else nullcontext():
            if recipe.quantized:
                calibrate(module, self.train)
            adapt_batch_norm(module, self.train)
            with counted(module, ran), torch.no_grad():
                found = [call(module, batch) for batch in self.batches]
        return found, ran, module.state_dict()


class counted:
    """Notes the names of layers with weights whose forward really runs."""

    def __init__(self, module: nn.Module, ran: set[str]) -> None:
        self._layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        self._ran, self._put = ran, list[tuple[nn.Module, Callable[..., Any]]]()

    def __enter__(self) -> None:
        original = torch.nn.functional.linear, torch.nn.functional.conv2d
        self._original = original
        owners = {id(m.weight): n for n, m in self._layers.items() if "weight" in m._parameters}

        def noted(function: Callable[..., Any]) -> Callable[..., Any]:
            def run(x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Any:
                self._ran.add(owners.get(id(weight), ""))
                return function(x, weight, *rest, **named)

            return run

        torch.nn.functional.linear, torch.nn.functional.conv2d = (noted(function) for function in original)

    def __exit__(self, *_: object) -> None:
        torch.nn.functional.linear, torch.nn.functional.conv2d = self._original


def units(graph: ModelGraph) -> list[Recipe]:
    layers = [x for x in graph.compressible if "LSTM" not in x.kind]
    chosen = layers[:: max(1, len(layers) // 4)] + layers[-1:]
    recipes = [
        Recipe(layers={x.name: LayerRecipe(weight_bits=4, activation_bits=32 if x.weights_only else 8)}) for x in chosen
    ]
    return recipes + [Recipe(pruning={group.name: 0.5}) for group in graph.prunable[-1:]]


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_tensors_are_the_same_with_and_without_the_cache(name: str) -> None:
    bench, saves = Bench(MODELS[name]), False
    for recipe in units(bench.graph):
        (mine, few, my_state), (theirs, many, their_state) = (bench.outputs(recipe, flag) for flag in (True, False))
        assert same_values(mine, theirs)
        assert all(torch.equal(my_state[key], tensor) for key, tensor in their_state.items())
        saves |= len(few) < len(many)
    assert saves or name in ("gru", "tied")  # without a Linear layer before a change


def test_layers_before_the_first_change_do_not_run() -> None:
    bench = Bench(NETS["residual"])
    recipe = Recipe(layers={"head": LayerRecipe(weight_bits=8, activation_bits=8)})
    _, ran, _ = bench.outputs(recipe, with_cache=True)
    assert not ran & {"stem.0", "first.0", "second.0"}


@pytest.mark.parametrize("max_bytes", [1, 20_000, 100_000])
def test_too_little_memory_costs_time_only(max_bytes: float) -> None:
    bench = Bench(NETS["residual"], max_bytes)
    assert bench.cache.n_bytes <= max_bytes
    for recipe in units(bench.graph):
        assert same_values(*(bench.outputs(recipe, flag)[0] for flag in (True, False)))


class InPlace(nn.Module):
    """Writes into what a layer returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu, self.second = nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.first(x))
        z = self.second(y)
        y += 1.0
        return self.head(y * z)


class Random(nn.Sequential):
    """Adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Moody(nn.Module):
    """Calls its layers in another order every second time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self._n = nn.Linear(6, 6), nn.Linear(6, 6), [0]

    def forward(self, x: Tensor) -> Tensor:
        self._n[0] += 1
        return self.a(self.b(x)) if self._n[0] % 2 else self.b(self.a(x))


class Hidden(nn.Module):
    """Hands a value on behind the back of its modules, and returns what a layer returned early."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.first(x)
        return early, self.third(self.second(early).detach().clone() + float(early.sum()))


def cached(model: nn.Module, batches: list[Tensor]) -> PrefixCache:
    cache = PrefixCache(model, [name for name, _ in model.named_modules()], batches[0], len(batches))
    with torch.no_grad(), cache.recording():
        for batch in batches:
            model(batch)
    return cache


@pytest.mark.parametrize("make", [InPlace, Hidden])
def test_odd_models_give_the_same_twice_in_a_row(make: Callable[[], nn.Module]) -> None:
    model, batches = make().eval(), [torch.randn(5, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    cache = cached(model, batches)
    for name, _ in list(model.named_children()):
        if not hasattr(getattr(model, name), "weight"):
            continue
        changed = copy.deepcopy(model)
        with torch.no_grad():
            getattr(changed, name).weight.mul_(0.5)
            plain = [changed(batch) for batch in batches]
            with cache.skipping(changed):
                assert same_values([changed(b) for b in batches] + [changed(b) for b in batches], plain + plain)


@pytest.mark.parametrize(
    "model", [pytest.param(Random(nn.Linear(6, 6), nn.Linear(6, 3)), id="chance"), pytest.param(Moody(), id="order")]
)
def test_what_does_not_run_twice_alike_is_not_cached(model: nn.Module) -> None:
    assert call_order(model.eval(), torch.randn(4, 6)) is None
    cache = cached(model, [torch.randn(4, 6)])
    assert cache.order is None and cache.n_bytes == 0
    with cache.skipping(copy.deepcopy(model)) as nothing:
        assert nothing is None


def test_batches_that_were_not_recorded_run_as_ever() -> None:
    model, known, other = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)).eval(), torch.zeros(4, 6), torch.ones(4, 6)
    cache, changed = cached(model, [known]), copy.deepcopy(model)
    with torch.no_grad():
        changed[1].weight.mul_(2)
        wanted = changed(other)
        with cache.skipping(changed):
            assert torch.equal(changed(other), wanted)


CHANGES: list[Any] = [
    pytest.param(lambda m: m[0].weight.data.add_(1), {"0"}, id="a weight"),
    pytest.param(lambda m: m[1].running_mean.add_(1), {"1"}, id="a statistic"),
    pytest.param(lambda m: setattr(m[2], "inplace", True), {"2"}, id="an attribute"),
    pytest.param(lambda m: m[3].register_forward_pre_hook(lambda *_: None), {"3"}, id="a hook"),
    pytest.param(lambda m: m.__setitem__(2, nn.GELU()), {"2"}, id="a class"),
    pytest.param(lambda m: m[0].add_module("more", nn.ReLU()), {"0"}, id="a child"),
    pytest.param(lambda m: m.pop(3), {"", "3"}, id="a module that is gone"),
    pytest.param(lambda m: m.train(), set(), id="the mode is no change"),
]


@pytest.mark.parametrize(("change", "names"), CHANGES)
def test_changed_modules_are_found(change: Callable[[nn.Sequential], Any], names: set[str]) -> None:
    before = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    after = copy.deepcopy(before)
    with torch.no_grad():
        change(after)
    assert changed_modules(before, after) == names


def test_forward_is_as_before_afterwards() -> None:
    bench = Bench(NETS["residual"])
    module = bench.compressed(Recipe(layers={"head": LayerRecipe(weight_bits=8)}))
    with bench.cache.skipping(module):
        assert "forward" in vars(module)
    assert not any("forward" in vars(part) for part in module.modules())
