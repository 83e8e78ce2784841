"""The notebook runs from its first cell to its last, with a small budget."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "first_search.ipynb"


def test_the_notebook_leads_from_a_model_to_a_chosen_candidate(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    cells["parameters"].source = f'BUDGET, OUT = "2trials", {str(tmp_path / "study")!r}'
    assert (call := "max_drop=0.01)") in cells["optimize"].source
    # random makes no plans, which takes half a minute
    brief = 'max_drop=0.01, finetune_steps=3, latency_seconds=0.3, sampler="random")'
    cells["optimize"].source = cells["optimize"].source.replace(call, brief)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": EXAMPLES}}).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    for shown in ("optimize", "front", "candidate", "choose"):
        assert any("<table" in output.get("data", {}).get("text/html", "") for output in outputs[shown]), shown
    assert any("image/png" in output.get("data", {}) for output in outputs["plot"])
    assert outputs["run"][0].text.startswith("it is a ")
    assert (tmp_path / "study" / "chosen" / "model.xml").is_file()


def test_the_committed_notebook_is_small() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
