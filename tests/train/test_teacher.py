"""The teacher's outputs, computed and from its cache: the same bits, whatever happens to the files."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import TrainingError
from autocompress.recipe import Distillation
from autocompress.train.distillation import Distiller
from autocompress.train.teacher import Teacher, TeacherOutputs
from tests.nets import NETS

RESIDUAL = NETS["residual"]
NAMES = ("stem.0", "first")


def batch(seed: int = 1, n: int = 4) -> Tensor:
    return RESIDUAL.inputs(n, seed)


def teacher(cache: Path | None, features: tuple[str, ...] = NAMES, **options: Any) -> Teacher:
    return Teacher(RESIDUAL.build(), features, cache, **options)


def same(first: TeacherOutputs, second: TeacherOutputs) -> bool:
    """Whether all is equal: order, names, bits, dtypes, memory layouts."""
    mine, theirs = ([*t.outputs, *t.features.values()] for t in (first, second))
    return list(first.features) == list(second.features) and all(
        a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)
    )


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_outputs_are_those_of_the_module_in_evaluation_mode() -> None:
    model = RESIDUAL.build()
    expected = model(batch()).detach()
    model.train()
    model.stem.eval()
    taught = Teacher(model, NAMES).outputs((batch(),), {})
    assert torch.equal(taught.outputs[0], expected) and not taught.outputs[0].requires_grad
    assert torch.equal(taught.features["stem.0"], model.stem[0](batch()))
    assert model.training and model.first.training and not model.stem.training
    assert not any(m._forward_hooks for m in model.modules())


def test_outputs_of_any_structure_come_in_the_order_of_flatten() -> None:
    net = NETS["dict"]
    taught = Teacher(net.build()).outputs((), net.inputs(3))
    assert [tuple(t.shape) for t in taught.outputs] == [(3, 5), (3, 16)]


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_random_state_neither_changes_nor_matters() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Teacher(Noisy()).outputs((batch(),), {})
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert same(first, Teacher(Noisy()).outputs((batch(),), {}))


UNKNOWN = [  # id, name, what the message says
    ("a typing error", "stem.O", "'stem.O' is not one; did you mean .*stem.0"),
    ("far off", "zzz", "'zzz' is not one; did you mean stem or"),
    ("the module itself", "", "'' is not one"),
]


@pytest.mark.parametrize(("name", "said"), [pytest.param(*row[1:], id=row[0]) for row in UNKNOWN])
def test_an_unknown_layer_is_refused(name: str, said: str) -> None:
    with pytest.raises(TrainingError, match=f"must be layers of the FP32 model, but {said}"):
        Teacher(RESIDUAL.build(), (name,))


def test_a_layer_that_does_not_run_is_refused() -> None:
    net = NETS["never_called"]
    with pytest.raises(TrainingError, match="'unused' of the FP32 model does not"):
        Teacher(net.build(), ("unused",)).outputs((net.inputs(),), {})


class Layouts(nn.Module):
    """Outputs of many layouts and kinds, among them one tensor twice, a slice, an expanded one and an empty one."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        rows = x.flatten(1)
        return {
            "image": x.to(memory_format=torch.channels_last) * 2,
            "twice": (rows, rows),
            "slice": rows[:, 1:4],
            "corner": rows[:1, :1],
            "turned": rows.T,
            "expanded": x[:1].expand(3, *x.shape[1:]),
            "scalar": x.mean(),
            "empty": x[:0],
            "whole": rows.argmax(dim=1),
            "flag": rows > 0,
            "half": rows.bfloat16(),
            "complex": torch.complex(rows, rows),
        }


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        pytest.param(RESIDUAL.build, torch.contiguous_format, id="a net"),
        pytest.param(RESIDUAL.build, torch.channels_last, id="channels last"),
        pytest.param(Layouts, torch.contiguous_format, id="many layouts"),
    ],
)
def test_what_is_read_is_bit_for_bit_what_is_computed(
    tmp_path: Path, make: Callable[[], nn.Module], layout: torch.memory_format
) -> None:
    x, names = batch().contiguous(memory_format=layout), () if make is Layouts else NAMES
    computed, stored = (Teacher(make(), names, cache).outputs((x,), {}) for cache in (None, tmp_path))
    reader = Teacher(make(), names, tmp_path)
    read = reader.outputs((x,), {})
    assert (reader.n_read, reader.n_computed) == (1, 0)
    assert same(computed, stored) and same(computed, read)


def test_what_is_read_can_be_overwritten_without_harm(tmp_path: Path) -> None:
    first = teacher(tmp_path).outputs((batch(),), {})
    teacher(tmp_path).outputs((batch(),), {}).outputs[0].zero_()
    assert same(first, teacher(tmp_path).outputs((batch(),), {}))


@pytest.mark.parametrize(
    "value",
    [SimpleNamespace(a=1), torch.eye(2).to_sparse(), torch.empty(2, device="meta")],
    ids=["an object", "a sparse tensor", "no content"],
)
def test_arguments_of_unknown_content_are_computed_and_not_stored(tmp_path: Path, value: Any) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, other: Any) -> Tensor:
            return x + 1

    taught = Teacher(Net(), (), tmp_path)
    for _ in range(2):
        assert torch.equal(taught.outputs((batch(),), {"other": value}).outputs[0], batch() + 1)
    assert taught.n_computed == 2 and files(tmp_path) == []


class Scaled(nn.Module):
    def __init__(self, scale: float = 2.0, act: Any = torch.relu) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.layers = nn.Sequential(nn.Identity(), act if isinstance(act, nn.Module) else nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * self.scale


class Renamed(Scaled):
    pass


TEACHERS = {
    "base": Teacher(Scaled()),
    "another buffer": Teacher(Scaled(3.0)),
    "another activation": Teacher(Scaled(act=nn.Tanh())),
    "another class": Teacher(Renamed()),
    "features": Teacher(Scaled(), ("layers",)),
    "other features": Teacher(Scaled(), ("layers.0",)),
}


def test_another_teacher_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for made in TEACHERS.values():
        cached = Teacher(made.module, made.features, tmp_path)
        assert same(cached.outputs((batch(),), {}), made.outputs((batch(),), {}))
        assert cached.n_read == 0
    assert len(list(tmp_path.iterdir())) == len(TEACHERS)


def test_the_digest_of_the_teacher_is_computed_once(tmp_path: Path) -> None:
    taught = teacher(tmp_path)
    taught.outputs((batch(),), {})
    with torch.no_grad():
        taught.module.head.weight.zero_()  # nobody may do so, but it shows that nobody looks
    taught.outputs((batch(),), {})
    assert taught.n_read == 1


def test_nothing_is_written_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taught = teacher(None)
    for _ in range(2):
        taught.outputs((batch(),), {})
    assert taught.n_computed == 2 and files(tmp_path) == []


def trained(cache: Path | None) -> dict[str, Tensor]:
    """Weights after 6 steps that distil outputs and features, with dropout."""
    student = nn.Sequential(RESIDUAL.build(5), nn.Dropout(0.2)).train()
    taught = Teacher(nn.Sequential(RESIDUAL.build()), tuple(f"0.{name}" for name in NAMES), cache)
    settings = Distillation(features=taught.features)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    with Distiller(student, taught, settings, (batch(),)) as distiller:
        for step in range(6):
            distiller.clear()
            student(batch(step).contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            (distiller.soft_loss(torch.arange(4)) + distiller.feature_loss()).backward()
            optimizer.step()
    return student.state_dict()


def test_a_training_ends_in_the_same_bits_whatever_the_cache_holds(tmp_path: Path) -> None:
    without, cold, warm = (trained(cache) for cache in (None, tmp_path, tmp_path))
    files(tmp_path)[0].unlink()
    partly = trained(tmp_path)
    assert all(torch.equal(other[name], value) for other in (cold, warm, partly) for name, value in without.items())


def test_threads_may_share_the_folder(tmp_path: Path) -> None:
    expected = [teacher(None).outputs((batch(seed),), {}) for seed in range(4)]
    wrong: list[int] = []

    def work(taught: Teacher) -> None:
        for seed in [*range(4), *range(4)]:
            if not same(taught.outputs((batch(seed),), {}), expected[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(teacher(tmp_path),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(files(tmp_path)) == 4


def test_another_process_reads_what_this_one_stored(tmp_path: Path) -> None:
    first = teacher(tmp_path).outputs((batch(),), {})
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(int(sys.argv[2]));"
        "from tests.train.test_teacher import batch, teacher; t = teacher(Path(sys.argv[1]));"
        "o = t.outputs((batch(),), {}); print(t.n_read, t.n_computed, float(o.outputs[0].double().sum()))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, str(tmp_path), str(torch.get_num_threads())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "0", str(float(first.outputs[0].double().sum()))], done.stderr


def test_a_teacher_can_be_sent_to_another_process(tmp_path: Path) -> None:
    taught = teacher(tmp_path)
    taught.outputs((batch(),), {})
    received = pickle.loads(pickle.dumps(taught))
    received.outputs((batch(),), {})
    assert received.n_read == 1
