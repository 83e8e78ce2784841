"""Random recipes, their untrained export, and a collection that goes on where it was interrupted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.compress import calibrate, compress
from autocompress.deploy import save_openvino, size_bytes, to_openvino
from autocompress.errors import MeasurementError
from autocompress.graph import ModelGraph, inspect_model
from autocompress.latency import JointLatency, LatencySettings, PairedLatency, compile_model
from autocompress.measure import layer_precisions
from autocompress.measurement import LatencyCheck, Speedup
from autocompress.processes import WorkFailedError
from autocompress.recipe import LayerRecipe, Recipe
from autocompress.search import latency_samples
from autocompress.search.latency_samples import (
    N_TOGETHER,
    collect,
    export_untrained,
    measured_latency_model,
    sample_recipes,
)
from autocompress.search.size_model import SizeModel, recipe_size
from autocompress.task import Task
from tests.tiny import mlp, shared_layers, tiny


def inspected(task: Task) -> ModelGraph:
    return inspect_model(task.model, task.example_input)


def integer_share(graph: ModelGraph, recipe: Recipe) -> float:
    return len(recipe.quantized) / len(graph.compressible)


class FakeProcess:
    """Gives every model the speed-up that its files are smaller by, and notes what it was asked."""

    asked: list[tuple[Path, list[str]]] = []
    fails: Callable[[str], bool] = staticmethod(lambda digest: False)

    def __enter__(self) -> "FakeProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def compare_all(
        self, baseline: Path, candidates: list[Path], inputs: Any, settings: LatencySettings
    ) -> JointLatency:
        type(self).asked.append((baseline, [path.stem for path in candidates]))
        if any(type(self).fails(path.stem) for path in candidates):
            raise WorkFailedError("the measuring process was killed")
        check = LatencyCheck(p90_ms=1, p99_ms=1, noise_floor=0, busy_share=0)
        values = [size_bytes(baseline) / size_bytes(path) for path in candidates]
        speedups = [Speedup(value=v, low=v, high=v, n_pairs=settings.max_pairs) for v in values]
        return JointLatency(tuple(PairedLatency(speedup, 1.0, 1.0, check) for speedup in speedups), ())


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    fresh = type("Fresh", (FakeProcess,), {"asked": []})
    monkeypatch.setattr(latency_samples, "LatencyProcess", fresh)
    return fresh


def test_the_first_recipes_are_the_corners() -> None:
    graph = inspected(tiny())
    first = sample_recipes(graph, 4)
    assert first[0] == Recipe()
    assert [integer_share(graph, r) for r in first] == [0, 1, 0, 1]
    assert [set(r.pruning.values()) for r in first] == [set(), set(), {0.5}, {0.5}]


def test_recipes_differ_and_a_longer_list_begins_with_a_shorter() -> None:
    graph = inspected(tiny())
    recipes = sample_recipes(graph, 40)
    assert len(set(recipes)) == 40
    assert sample_recipes(graph, 12) == recipes[:12]
    assert sample_recipes(graph, 12, seed=1)[4:] != recipes[4:12]


def test_recipes_fill_the_space() -> None:
    graph = inspected(tiny())
    recipes = sample_recipes(graph, 60)[4:]
    shares = [integer_share(graph, r) for r in recipes]
    ratios = [sum(r.pruning.values()) / len(graph.prunable) for r in recipes]
    for low, high in ((0, 0.34), (0.34, 1.01)):
        for least, most in ((0, 0.2), (0.2, 0.5), (0.5, 0.91)):
            inside = [low <= s < high and least <= r < most for s, r in zip(shares, ratios, strict=True)]
            assert sum(inside) >= 3, (low, least)


def test_a_model_with_few_recipes_gives_those() -> None:
    graph = inspected(mlp())
    recipes = sample_recipes(ModelGraph(graph.layers, ()), 50)
    assert len(recipes) == 4  # two layers of two precisions


def test_all_recipes_can_be_applied() -> None:
    task = shared_layers()
    graph = inspected(task)
    for recipe in sample_recipes(graph, 12):
        compress(task.model, graph, recipe, task.example_input, structure_only=True)


def test_the_kernels_of_an_untrained_recipe_are_those_of_a_calibrated_one() -> None:
    task = tiny()
    graph = inspected(task)
    recipe = sample_recipes(graph, 4)[3]
    calibrated = compress(task.model, graph, recipe, task.example_input)
    calibrate(calibrated.module, task.train)
    with calibrated.export_form() as module:
        wanted = to_openvino(module, task.example_input)
    found = export_untrained(task, graph, recipe)
    assert kernels(found) == kernels(wanted)
    names = list(recipe.layers)
    assert layer_precisions(compile_model(found, 1), names) == layer_precisions(compile_model(wanted, 1), names)


def kernels(model: Any) -> list[tuple[str, str, str]]:
    infos = [node.get_rt_info() for node in compile_model(model, 1).get_runtime_model().get_ordered_ops()]
    keys = ("layerType", "primitiveType", "runtimePrecision")
    return [tuple(info[key].astype(str) for key in keys) for info in infos]  # type: ignore[misc]


def test_every_model_is_timed_against_the_baseline_and_deleted(tmp_path: Path, process: type[FakeProcess]) -> None:
    told: list[tuple[int, float]] = []
    samples = collect(tiny(), inspected(tiny()), tmp_path, 1.5, on_sample=lambda n, s: told.append((n, s)))
    assert len(samples) == sum(len(digests) for _, digests in process.asked) >= N_TOGETHER
    assert len(told) == len(process.asked)
    assert {baseline for baseline, _ in process.asked} == {tmp_path / "baseline.xml"}
    assert [n for n, _ in told] == list(range(N_TOGETHER, len(samples) + 1, N_TOGETHER))
    assert told[-1][1] < 2.5
    assert {p.name for p in tmp_path.iterdir()} == {"baseline.xml", "baseline.bin", "samples.jsonl"}
    assert samples[1].speedup.value > 1


def stop(n: int, seconds: float) -> None:
    raise KeyboardInterrupt


def test_a_second_call_goes_on_where_the_first_was_interrupted(tmp_path: Path, process: type[FakeProcess]) -> None:
    task, graph = tiny(), inspected(tiny())

    def interrupt(n: int, seconds: float) -> None:
        if n == N_TOGETHER:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(task, graph, tmp_path, 60.0, on_sample=interrupt)
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('{"recipe": {"lay')  # and cut
    seen = process.asked[:]
    process.asked.clear()
    samples = collect(task, graph, tmp_path, 5.0)
    assert len(samples) > N_TOGETHER
    assert [s.recipe for s in samples] == sample_recipes(graph, len(samples))
    assert not {d for _, digests in seen for d in digests} & {d for _, digests in process.asked for d in digests}
    assert collect(task, graph, tmp_path, 0.0) == samples


def test_a_recipe_that_fails_is_left_out_and_not_tried_again(tmp_path: Path, process: type[FakeProcess]) -> None:
    guilty = sample_recipes(inspected(tiny()), 2)[1].digest()
    process.fails = staticmethod(lambda digest: digest == guilty)
    samples = collect(tiny(), inspected(tiny()), tmp_path, 0.0)
    assert {s.recipe for s in samples} == {r for r in sample_recipes(inspected(tiny()), 4) if r.digest() != guilty}
    process.fails = staticmethod(lambda digest: False)
    process.asked.clear()
    with pytest.raises(KeyboardInterrupt):
        collect(tiny(), inspected(tiny()), tmp_path, 30.0, on_sample=stop)
    assert process.asked and guilty not in {digest for _, digests in process.asked for digest in digests}


def test_a_collection_without_a_sample_says_why(tmp_path: Path, process: type[FakeProcess]) -> None:
    process.fails = staticmethod(lambda digest: True)
    with pytest.raises(MeasurementError, match="could be timed: the measuring process was killed; check"):
        collect(tiny(), inspected(tiny()), tmp_path, 1.0)


def test_a_latency_model_is_measured_once(tmp_path: Path, process: type[FakeProcess]) -> None:
    task, graph = tiny(), inspected(tiny())
    model = measured_latency_model(task, graph, tmp_path, 1.0)
    n_asked = len(process.asked)
    again = measured_latency_model(task, graph, tmp_path, 1.0)
    assert len(process.asked) == n_asked >= 1
    assert again.samples == model.samples
    assert again.predict(model.samples[-1].recipe) == pytest.approx(model.predict(model.samples[-1].recipe))


def test_a_real_collection_takes_the_time_it_was_given(tmp_path: Path) -> None:
    samples = collect(tiny(), inspected(tiny()), tmp_path, 2.0, n_pairs=5)
    assert len(samples) >= 2
    assert all(s.speedup.n_pairs >= 5 for s in samples)


def test_the_size_of_an_untrained_recipe_is_that_of_its_files(tmp_path: Path) -> None:
    task = tiny()
    graph = inspected(task)
    recipe = sample_recipes(graph, 4)[3]
    calibrated = compress(task.model, graph, recipe, task.example_input)
    calibrate(calibrated.module, task.train)
    with calibrated.export_form() as module:
        path = save_openvino(to_openvino(module, task.example_input), tmp_path)
    assert abs(recipe_size(task, graph, recipe) - size_bytes(path)) <= 64


SIZED = [
    ("float", {}, {}),
    ("8 bits", {"weight_bits": 8, "activation_bits": 8}, {}),
    ("4 bits", {"weight_bits": 4, "activation_bits": 8}, {}),
    ("3 bits", {"weight_bits": 3, "activation_bits": 8}, {}),
    ("4 bits, float input", {"weight_bits": 4}, {}),
    ("2 bits, float input", {"weight_bits": 2}, {}),
    ("half of the filters", {}, {"0": 0.5, "3": 0.5}),
    ("half of them at 8 bits", {"weight_bits": 8, "activation_bits": 8}, {"0": 0.5, "3": 0.3}),
]


@pytest.fixture(scope="module")
def sizes() -> SizeModel:
    return SizeModel.measure(tiny(), inspected(tiny()))


@pytest.mark.parametrize(("layer", "pruning"), [pytest.param(*row[1:], id=row[0]) for row in SIZED])
def test_the_sum_over_layers_is_near_the_exact_size(
    sizes: SizeModel, layer: dict[str, int], pruning: dict[str, float]
) -> None:
    task = tiny()
    graph = inspected(task)
    recipe = Recipe(layers=dict.fromkeys(["0", "3", "7"], LayerRecipe(**layer)), pruning=pruning)
    assert sizes.predict(recipe) == pytest.approx(recipe_size(task, graph, recipe), rel=0.01)


def test_bytes_of_one_layer_are_its_part_of_the_sum(sizes: SizeModel) -> None:
    layer = LayerRecipe(weight_bits=4, activation_bits=8)
    recipe = Recipe(layers={"3": layer}, pruning={"0": 0.5})
    assert sizes.contributions(recipe)["3"] == pytest.approx(sizes.layer_bytes("3", layer, 0.0, 0.5))
    assert sum(sizes.contributions(Recipe()).values()) == 0
