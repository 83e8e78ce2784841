"""Keys by content, and the files of the cache: the same bits, or nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.train import tensor_cache
from autocompress.train.tensor_cache import TensorCache, batch_key, content_digest
from tests.train.test_teacher import batch, files, same, teacher

OTHERS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "another value": ((batch() + torch.eye(8) * 1e-6,), {}),
    "the sign of a zero": ((torch.where(batch() == batch()[0, 0, 0, 0], -0.0, batch()),), {}),
    "another order of samples": ((batch().flip(0),), {}),
    "another shape": ((batch().reshape(4, 3, 4, 16),), {}),
    "another dtype": ((batch().double(),), {}),
    "another meaning of the same bytes": ((batch().view(torch.int32),), {}),
    "another memory layout": ((batch().contiguous(memory_format=torch.channels_last),), {}),
    "another layout of the same bytes": ((batch().view(4, 8, 8, 3).permute(0, 3, 1, 2),), {}),
    "by name": ((), {"x": batch()}),
    "in a list": (([batch()],), {}),
    "as an array": ((batch().numpy(),), {}),
    "in two parts": ((batch()[:2], batch()[2:]), {}),
    "with a plain value": ((batch(), 1), {}),
    "with another plain value": ((batch(), 1.0), {}),
    "with a truth": ((batch(), True), {}),
    "with a text": ((batch(), "1"), {}),
}


def test_all_that_differs_has_its_own_key() -> None:
    zero = batch().clone()
    zero[zero == zero[0, 0, 0, 0]] = 0.0
    keys = [batch_key((batch(),), {}), batch_key((zero,), {}), *(batch_key(*other) for other in OTHERS.values())]
    assert None not in keys and len(set(keys)) == len(keys)


@settings(max_examples=25)
@given(
    values=st.lists(st.recursive(st.integers(0, 2) | st.sampled_from(["", "0", ";", "';str '0"]), st.lists), max_size=3)
)
def test_structures_with_equal_digests_are_equal(values: list[Any]) -> None:
    everything = [values, tuple(values), [values], [*values, 0], [str(v) for v in values], {"a": values}]
    digests = {content_digest(value): repr(value) for value in everything}
    assert len(digests) == len({repr(value) for value in everything})


def test_equal_batches_have_equal_keys() -> None:
    assert batch_key((batch(),), {"a": [1, None]}) == batch_key((batch().clone(),), {"a": [1, None]})
    padded = torch.zeros(4, 3, 8, 9)
    padded[..., :8] = batch()
    assert batch_key((padded[..., :8],), {}) == batch_key((batch(),), {})  # gaps in memory don't count


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float64, torch.complex64]
)
def test_every_dtype_has_a_key(dtype: torch.dtype) -> None:
    first, second = torch.tensor([[1, 0]], dtype=dtype), torch.tensor([[1, 1]], dtype=dtype)
    assert len({batch_key((first,), {}), batch_key((second,), {}), None}) == 3


def test_what_makes_torch_round_differently_is_in_the_key() -> None:
    before, n_threads = batch_key((batch(),), {}), torch.get_num_threads()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = batch_key((batch(),), {})
    try:
        torch.set_num_threads(n_threads + 1)
        threaded = batch_key((batch(),), {})
    finally:
        torch.set_num_threads(n_threads)
    assert len({before, mixed, threaded}) == 3 and batch_key((batch(),), {}) == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": _cut,
    "one bit": _flip,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "text": lambda path: path.write_text("not safetensors"),
    "of another program": lambda path: tensor_cache.save_file({"a": torch.eye(2)}, path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_computed_again_and_replaced(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    first = teacher(tmp_path).outputs((batch(),), {})
    (path,) = files(tmp_path)
    content = path.read_bytes()
    damage(path)
    again = teacher(tmp_path)
    assert same(again.outputs((batch(),), {}), first) and again.n_read == 0
    assert files(tmp_path) == [path] and path.read_bytes() == content


def test_a_folder_that_cannot_be_written_does_not_stop_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    taught = teacher(tmp_path / "file" / "cache")
    for seed in range(2):
        assert same(taught.outputs((batch(seed),), {}), teacher(None).outputs((batch(seed),), {}))


def test_a_full_disk_ends_the_storing_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_half(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    taught = teacher(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(tensor_cache, "save_file", save_half)
        taught.outputs((batch(),), {})
    taught.outputs((batch(),), {})
    assert taught.n_computed == 2 and files(tmp_path) == []


def test_the_folder_is_filled_up_to_its_limit(tmp_path: Path) -> None:
    teacher(tmp_path).outputs((batch(),), {})
    (first,) = files(tmp_path)
    limit = 3 * first.stat().st_size + 100
    for seeds in ((2, 3), (4, 5)):  # a second teacher counts what it finds
        taught = teacher(tmp_path, max_bytes=limit)
        for seed in seeds:
            taught.outputs((batch(seed),), {})
    assert len(files(tmp_path)) == 3
    assert sum(path.stat().st_size for path in files(tmp_path)) <= limit


@pytest.mark.parametrize(("hit_after", "n_files"), [(None, 3), (2, 6), (3, 6)], ids=["never", "early", "at last"])
def test_data_that_never_come_again_are_not_stored_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hit_after: int | None, n_files: int
) -> None:
    monkeypatch.setattr(tensor_cache, "MAX_STORED_WITHOUT_HIT", 3)
    taught = teacher(tmp_path)
    for seed in range(6):
        if seed == hit_after:
            taught.outputs((batch(0),), {})
        taught.outputs((batch(seed),), {})
    assert len(files(tmp_path)) == n_files and taught.n_read == (hit_after is not None)


def test_an_unfinished_cache_entry_is_not_read(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path / "a", tmp_path, 10**6)
    cache.write("key", {"x": torch.eye(2)})
    (path,) = files(tmp_path)
    path.rename(path.with_name(".key.1.partial"))
    assert cache.read("key") is None
