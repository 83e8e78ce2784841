"""Built-in search spaces and the finding of files."""

from pathlib import Path

import pytest

from autocompress.errors import SearchSpaceError
from autocompress.graph.model_graph import ModelGraph
from autocompress.recipe import Recipe
from autocompress.space import DEFAULT_SPACE, built_in_spaces, load_space

MINE = "description: d\nlayers:\n  - match: '*'\n    weight_bits: [32]\n"


def test_every_file_of_the_source_tree_is_a_built_in_space() -> None:
    source = Path(__file__).parents[2] / "search_spaces"
    assert list(built_in_spaces()) == sorted(file.stem for file in source.glob("*.yaml"))
    assert {DEFAULT_SPACE, "int8", "mixed-precision", "pruning"} <= set(built_in_spaces())


@pytest.mark.parametrize("name", list(built_in_spaces()))
def test_a_built_in_space_binds_and_has_something_to_try(name: str, graph: ModelGraph) -> None:
    space = load_space(name)
    assert space.name == name
    assert space.description.endswith(".")
    assert space.bind(graph).n_recipes > 1


@pytest.mark.parametrize("name", list(built_in_spaces()))
def test_a_built_in_space_can_leave_the_model_as_it_is(name: str, graph: ModelGraph) -> None:
    assert load_space(name).bind(graph).nearest(Recipe()).is_identity


@pytest.mark.parametrize("ending", [".yaml", ".yml"])
def test_a_path_is_read_as_a_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"mine{ending}"
    path.write_text(MINE)
    assert load_space(path) == load_space(str(path))
    assert load_space(path).name == "mine"


def test_an_error_in_a_file_names_the_path_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(MINE.replace("32", "33"))
    with pytest.raises(SearchSpaceError, match=r"^mine\.yaml:4: .*but got 33"):
        load_space("mine.yaml")


def test_an_unknown_name_is_refused_with_all_names_and_the_nearest() -> None:
    with pytest.raises(
        SearchSpaceError, match=r"full, int8, low-rank, mixed-precision, pruning, sparse.*'prunning'.*mean pruning\?"
    ):
        load_space("prunning")


@pytest.mark.parametrize("kind", ["missing", "a folder", "not text"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.yaml"
    if kind == "a folder":
        path.mkdir()
    if kind == "not text":
        path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SearchSpaceError, match=r"mine\.yaml:1: a search space file must be readable UTF-8 text"):
        load_space(path)
