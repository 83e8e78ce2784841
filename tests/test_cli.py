"""The command line: what it prints, and one sentence with exit code 2 for every bad input."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autocompress import create_study
from autocompress.search.chosen import Manifest
from tests.commands import Command
from tests.tiny import FILE, tiny

TINY = f"{FILE}:tiny"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "out"
    task = create_study(tiny(), out=out, max_drop=0.5, finetune_steps=3, task_reference=TINY, space="int8")
    task.optimize("2trials")
    return out


@pytest.fixture
def copied(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "copied"))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# Each case: the command line, in which OUT is a fresh folder and FILE a file with the text; and what must be said.
BAD = [
    pytest.param("search nonsense", "", "task 'nonsense' is unknown; known are fashion", id="unknown task"),
    pytest.param("search fashon", "", "did you mean 'fashion'?", id="misspelt task"),
    pytest.param("search nowhere.py:task", "", "task file nowhere.py does not exist", id="no such file"),
    pytest.param("search no.such.module:task", "", "No module named 'no'", id="no such module"),
    pytest.param(f"search {FILE}:tinny", "", "has no function 'tinny'; did you mean 'tiny'?", id="no such function"),
    pytest.param(f"search {FILE}:not_a_task", "", "must return an autocompress.Task, but got int", id="not a task"),
    pytest.param(f"search {FILE}:fails", "", "fails while it is made: FileNotFoundError: data.csv", id="task fails"),
    pytest.param("search FILE.py:task", "def task(:", "SyntaxError", id="task file does not parse"),
    pytest.param(f"search {TINY} --space fulll", "", "Did you mean full", id="unknown space"),
    pytest.param(f"search {TINY} --space nowhere.yaml", "", "nowhere.yaml", id="no such space file"),
    pytest.param(f"search {TINY} --space FILE.yaml", "layers: [", "FILE.yaml:1: ", id="space does not parse"),
    pytest.param(
        f"search {TINY} --space FILE.yaml", "layer: []", "FILE.yaml:1: .*Did you mean layers", id="unknown key"
    ),
    pytest.param(
        f"search {TINY} --space FILE.yaml",
        "description: x\nlayers:\n  - match: '*'\n    weight_bits: [9]\n",
        "FILE.yaml:4: .*9",
        id="unknown value",
    ),
    pytest.param(f"search {TINY} --budget soon", "", "a budget of 'soon' cannot be read", id="budget unreadable"),
    pytest.param(f"search {TINY} --budget 0s", "", "at least 10s, but got 0s", id="budget zero"),
    pytest.param(f"search {TINY} --budget 1s", "", "at least 10s, but got 1s", id="budget too small"),
    pytest.param(f"search {TINY} --budget 0trials", "", "at least 1 trial, but got 0", id="no trials"),
    pytest.param(f"search {TINY} --max-drop -0.1", "", "max_drop must be at least 0, but got -0.1", id="negative drop"),
    pytest.param(f"search {TINY} --max-drop nan", "", "max_drop must be at least 0, but got nan", id="drop nan"),
    pytest.param(
        f"search {TINY} --sampler best", "", "sampler must be one of bayesdp, spdy, tpe", id="unknown sampler"
    ),
    pytest.param(f"search {TINY} --finetune-steps -1", "", "finetune_steps must be at least 0", id="negative steps"),
    pytest.param(
        f"search {TINY} --latency-seconds 0", "", "latency_seconds must be above 0, but got 0", id="no latency time"
    ),
    pytest.param(f"search {TINY} --seed x", "", "Invalid value for '--seed'", id="seed a word"),
    pytest.param(f"search {TINY} --budgett 1m", "", "No such option: --budgett", id="unknown option"),
    pytest.param(f"search {TINY} --out FILE", "kept", "FILE cannot be written", id="out is a file"),
    pytest.param(f"search {TINY} --out /proc/study", "", "/proc/study cannot be written", id="out cannot be written"),
    pytest.param(f"search {FILE}:nothing_to_compress", "", "compress", id="no compressible layer"),
    pytest.param(f"search {FILE}:wrong_shape", "", "example_input|example input", id="wrong shape"),
    pytest.param(f"search {FILE}:no_validation --budget 1trial", "", "validation", id="no data"),
    pytest.param(f"search {FILE}:nan_score --budget 1trial", "", "nan", id="score is NaN"),
    pytest.param(f"inspect {TINY} --threads 0", "", r"threads must be in 1\.\.\d+", id="inspect with no threads"),
    pytest.param(f"inspect {TINY} --no-timing --picture OUT", "", "a picture shows times", id="a picture of no times"),
    pytest.param("sensitivity nonsense", "", "task 'nonsense' is unknown", id="sensitivity of an unknown task"),
    pytest.param(f"sensitivity {TINY} --budget 9trials", "", "must be a time such as 90s", id="a table for trials"),
    pytest.param(f"sensitivity {TINY} --space fulll", "", "Did you mean full", id="sensitivity in an unknown space"),
    pytest.param(f"sensitivity {FILE}:nan_score --space int8", "", "nan", id="sensitivity of a score that is NaN"),
    pytest.param("cpu --threads 0", "", r"threads must be in 1\.\.\d+", id="a probe with no threads"),
    pytest.param("inspect nonsense", "", "task 'nonsense' is unknown", id="inspect unknown task"),
    pytest.param("report OUT", "", "candidates.json cannot be read; give the folder", id="report of nothing"),
    pytest.param("choose OUT --max-drop 0.1", "", "holds no study", id="choose from nothing"),
    pytest.param("choose OUT --digest ab", "", "holds no study", id="choose a digest from nothing"),
    pytest.param("verify OUT", "", "give the chosen/ folder of a study", id="verify nothing"),
    pytest.param("verify OUT --threads 0", "", "give the chosen/ folder of a study", id="verify nothing with threads"),
    pytest.param("measure OUT/a.xml --baseline OUT/b.xml", "", "a.xml|b.xml", id="measure missing files"),
    pytest.param("measure FILE.xml --baseline FILE.xml", "<net/>", "FILE.xml", id="measure something else"),
    pytest.param(f"compress {TINY} --recipe OUT/r.yaml --out OUT", "", "r.yaml cannot be read", id="no recipe"),
    pytest.param(f"compress {TINY} --recipe FILE.yaml --out OUT", "a: [", "not a YAML document", id="recipe broken"),
    pytest.param(
        f"compress {TINY} --recipe FILE.yaml --out OUT",
        "layers: {'0': {weight_bits: 9}}",
        r"must be one of 2\.\.8, 32 \(float\) or 1 \(binary\), but got 9",
        id="bits unknown",
    ),
    pytest.param(
        f"compress {TINY} --recipe FILE.yaml --out OUT", "layers: {conv: {weight_bits: 8}}", "conv", id="layer unknown"
    ),
    pytest.param("spaces fulll", "", "Did you mean full", id="spaces unknown"),
]


@pytest.mark.parametrize(("line", "text", "said"), BAD)
def test_bad_input_is_one_sentence_and_loses_nothing(
    command: Command, tmp_path: Path, line: str, text: str, said: str
) -> None:
    name = next((word.partition(":")[0] for word in line.split() if word.startswith("FILE")), "FILE")
    file = written(tmp_path / name, text)
    filled = re.sub(r"\bFILE\b", str(tmp_path / "FILE"), line).replace("OUT", str(tmp_path / "OUT"))
    arguments = filled.split()
    if arguments[0] == "search" and "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "OUT")]
    done = command(*arguments)
    assert done.code == 2
    assert re.search(said, done.error.replace("\n", " ")), done.error
    assert "Traceback" not in done.out + done.error
    assert file.read_text() == text
    assert not (tmp_path / "OUT" / "chosen").exists()
    usage = "Usage:" in done.error
    assert usage or (done.error.startswith("autocompress: ") and done.error.count("\n") == 1), done.error


def test_a_process_ends_with_the_exit_code_and_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "autocompress", "search", "nonsense"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("autocompress: task 'nonsense' is unknown") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


DAMAGES = [
    pytest.param("candidates.json", "{", "report", "candidates.json is not a record of a study", id="half a record"),
    pytest.param("candidates.json", '{"format": 9}', "report", "has format 9, but .* upgrade", id="a newer format"),
    pytest.param("study.json", "{", "choose", "study.json is damaged", id="half a configuration"),
    pytest.param("study.json", "{", "search", "study.json is damaged", id="search with half a configuration"),
    pytest.param("study.json", None, "search", "has results but no study.json", id="search without a configuration"),
    pytest.param("journal.log", "x\n", "search", "journal.log is damaged", id="a damaged journal"),
]


@pytest.mark.parametrize(("name", "content", "subcommand", "said"), DAMAGES)
def test_a_damaged_study_is_said_and_kept(
    command: Command, copied: Path, name: str, content: str | None, subcommand: str, said: str
) -> None:
    (copied / name).unlink()
    if content is not None:
        (copied / name).write_text(content)
    arguments = {
        "report": ("report", copied),
        "choose": ("choose", copied),
        "search": ("search", TINY, "--space", "int8", "--max-drop", "0.5", "--budget", "1trial", "--out", copied),
    }
    chosen = (copied / "chosen" / "manifest.json").read_bytes()
    done = command(*arguments[subcommand])
    assert done.code == 2 and re.search(said, done.error)
    assert (copied / "chosen" / "manifest.json").read_bytes() == chosen


def test_a_full_disk_is_said_without_a_traceback(
    command: Command, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("autocompress.report.markdown.write_atomically", full)
    done = command("report", study)
    assert done.code == 2 and "report.md cannot be used: No space left on device" in done.error


def test_search_prints_what_it_found_and_where(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = ("search", TINY, "--space", "int8", "--max-drop", "0.5", "--budget", "1trial", "--out", out)
    done = command(*line, "--finetune-steps", 3)
    assert done.code == 0 and done.error == ""
    for text in ("int8 (", "chosen: ", "score on test", "95 % interval", f"report: {out / 'report.md'}"):
        assert text in done.out.replace("\n", "")
    assert Manifest.read(out / "chosen").task_reference == TINY


@pytest.mark.slow
def test_the_same_line_again_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    line = ("search", TINY, "--space", "int8", "--max-drop", "0.5", "--budget", "1trial", "--out", tmp_path / "out")
    command(*line, "--finetune-steps", 3)
    again = command(*line, "--finetune-steps", 3)
    assert again.code == 0 and "int8-w7 (" in again.out and "int8 (" not in again.out.split("chosen:")[0]


def test_a_floor_that_cannot_be_met_is_said_with_exit_code_0(command: Command, tmp_path: Path) -> None:
    line = ("search", f"{FILE}:only_fp32_works", "--budget", "1trial", "--out", tmp_path, "--finetune-steps", 3)
    done = command(*line)
    assert done.code == 0
    assert "The FP32 model is chosen: no compressed model that was tried keeps every bound" in done.out
    assert "1 candidates failed; the last because RuntimeError: no loss today" in done.out


def test_inspect_shows_layers_groups_and_what_is_left_alone(command: Command) -> None:
    done = command("inspect", TINY, "--no-timing")
    assert done.code == 0 and "whole model" not in done.out
    for text in ("24x16x3x3", "channel groups", "channel group 7 is not pruned", "search space:", "8-bit arithmetic"):
        assert text in done.out


UNCONVERTIBLE = """
from dataclasses import replace
import torch
from tests.commands import Command
from tests.tiny import tiny

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.linalg.eigvalsh(self.layer(x))

def task():
    return replace(tiny(), model=Net().eval(), example_input=torch.eye(4)[None])
"""


def test_inspect_times_the_layers_and_draws_them(command: Command, tmp_path: Path) -> None:
    done = command("inspect", TINY, "--picture", tmp_path / "layers.svg")
    assert done.code == 0
    assert re.search(r"whole model: 0\.\d+ ms in FP32, INT8 .*x \[.*\], half of the filters .*x \[", done.out)
    assert "<svg" in (tmp_path / "layers.svg").read_text()


def test_inspect_lists_a_model_that_openvino_cannot_convert(command: Command, tmp_path: Path) -> None:
    task, picture = written(tmp_path / "task.py", UNCONVERTIBLE), tmp_path / "layers.svg"
    done = command("inspect", f"{task}:task", "--picture", picture)
    assert done.code == 0 and "channel groups" in done.out and not picture.exists()
    assert "the layers were not timed: OpenVINO cannot convert the model: " in done.out


def test_sensitivity_prints_draws_and_remembers(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = tmp_path / "sensitivity.svg"
    first = command("sensitivity", TINY, "--space", "int8", "--picture", picture)
    assert first.code == 0 and first.error == ""
    said = " ".join(first.out.split())
    assert "what each layer loses, in points; below: divergence" in said and f"wrote {picture}" in said
    rows = [line.split() for line in first.out.splitlines() if " ±" in line]
    assert {row[0] for row in rows} == {"0", "3", "7"} and all(line.count("±") == 2 for line in map(" ".join, rows))
    assert "<svg" in picture.read_text()
    again = command("sensitivity", TINY, "--space", "int8", "--budget", "10s")
    assert again.out.splitlines() == [line for line in first.out.splitlines() if not line.startswith("wrote ")]


def test_spaces_are_listed_and_shown(command: Command) -> None:
    assert "mixed-precision" in command("spaces").out
    assert "weight_bits: [8, 7, 32]" in command("spaces", "int8").out


def test_report_makes_the_pictures_again(command: Command, copied: Path) -> None:
    before = (copied / "front.svg").read_bytes()
    (copied / "front.svg").unlink()
    done = command("report", copied)
    assert done.code == 0 and (copied / "front.svg").read_bytes() == before


def test_choose_takes_the_task_from_the_study(command: Command, copied: Path) -> None:
    done = command("choose", copied, "--max-drop", 1, "--max-size-bytes", 1)
    assert done.code == 0 and "no candidate keeps every bound" in done.out
    assert Manifest.read(copied / "chosen").chosen.test


def digests(study: Path) -> dict[str, str]:
    """Digests by label."""
    found = json.loads((study / "candidates.json").read_text())["candidates"]
    return {c["label"]: c["digest"] for c in found}


def test_choose_by_the_start_of_a_digest_says_at_once_what_chosen_holds(command: Command, copied: Path) -> None:
    digest = digests(copied)["int8"]
    done = command("choose", copied, "--digest", digest[:6])
    assert done.code == 0 and done.out.startswith(f"{copied / 'chosen'} holds int8 ({digest}): named by its digest; ")
    assert "score on test" in done.out and Manifest.read(copied / "chosen").candidate.digest == digest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--digest", "zz"], "no candidate has a digest that starts with 'zz'", id="no such digest"),
        pytest.param(["--digest", ""], r"\d candidates have a digest that starts with ''", id="several"),
        pytest.param(["--digest", "a", "--max-drop", "1"], "give either a digest or bounds", id="digest and floor"),
        pytest.param(["--max-latency-ms", "0"], "max_latency_ms must be above 0, but got 0", id="no time"),
        pytest.param(["--device", "tpu"], "tpu", id="unknown device"),
        pytest.param(["--full-finetune", "--task", "no.py:task"], "cannot be trained: task file no.py", id="no task"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_sentence(
    command: Command, copied: Path, arguments: list[str], said: str
) -> None:
    done = command("choose", copied, *arguments)
    assert done.code == 2 and re.search(said, done.error) and done.error.count("\n") == 1
    assert Manifest.read(copied / "chosen").chosen.test


def without_task(copied: Path) -> Path:
    """The study as Python code makes one, without a name for its task."""
    content = json.loads((copied / "study.json").read_text())
    (copied / "study.json").write_text(json.dumps({**content, "task_reference": None}))
    return copied


@pytest.mark.slow
def test_a_study_that_names_no_task_is_chosen_from_all_the_same(command: Command, copied: Path) -> None:
    chosen = Manifest.read(copied / "chosen").candidate.label
    digest = digests(without_task(copied))["int8" if chosen == "fp32" else "fp32"]
    done = command("choose", copied, "--digest", digest)
    assert done.code == 0 and "not confirmed on the test split: the study names no task; give it with" in done.out
    assert Manifest.read(copied / "chosen").candidate.digest == digest and digest in (copied / "report.md").read_text()
    assert command("choose", copied, "--task", TINY, "--digest", digest).code == 0
    assert Manifest.read(copied / "chosen").chosen.test
    refused = command("choose", copied, "--full-finetune")
    assert refused.code == 2 and "names no task, which a training needs; give it with --task" in refused.error


def test_a_copied_chosen_folder_verifies(command: Command, study: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(study / "chosen", tmp_path / "deployed")
    done = command("verify", moved)
    assert done.code in (0, 1)  # a loaded machine may miss the speed-up
    rows = [line for line in done.out.splitlines() if re.match(r"\S (score|drop|size|kernels) ", line)]
    with_kernels = Manifest.read(moved).candidate.label != "fp32"  # INT8 is not faster on every CPU
    assert len(rows) == 3 + with_kernels and all("holds" in row for row in rows), done.out
    assert "150 test samples" in done.out and "·" not in done.out


@pytest.mark.slow
def test_another_machine_is_told_and_judged_as_one(command: Command, study: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(study / "chosen", tmp_path / "deployed"))
    manifest = json.loads((moved / "manifest.json").read_text())
    environment, test = manifest["environment"], manifest["chosen"]["test"]
    environment |= {"cpu": "Fast CPU", "inference_threads": 999, "capabilities": [*environment["capabilities"], "AMX"]}
    environment["versions"]["openvino"] = "2030.1"
    test["speedup"] = {"value": 50.0, "low": 49.0, "high": 51.0, "n_pairs": 99}
    test["accuracy"] -= test["accuracy_drop"]["high"] - test["accuracy_drop"]["value"]
    (moved / "manifest.json").write_text(json.dumps(manifest))
    done = command("verify", moved, "--threads", 1)
    for text in ("processor was 'Fast CPU', is", "OpenVINO was '2030.1', is", "threads was 999, is 1", "offered AMX"):
        assert text in done.out
    (row,) = [line for line in done.out.splitlines() if "speed-up" in line]
    assert "50.00x [49.00, 51.00]" in row and ("not here: slower than claimed" in row or "not faster than FP32" in row)
    assert done.code == ("not faster" in row)


def test_a_manifest_whose_task_is_elsewhere_says_what_to_give(command: Command, copied: Path) -> None:
    path = copied / "chosen" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "task_reference": "gone/task.py:task"}))
    done = command("verify", copied / "chosen")
    assert done.code == 2 and "the task gone/task.py:task of the manifest is not found from here" in done.error
    path.write_text(json.dumps({**manifest, "task_reference": None}))
    done = command("verify", copied / "chosen")
    assert done.code == 2 and "names no task; give it with --task FILE.py:FUNCTION" in done.error


def test_a_false_claim_fails_verification(command: Command, copied: Path) -> None:
    path = copied / "chosen" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["chosen"]["test"]["accuracy"] = 0.123
    path.write_text(json.dumps(manifest))
    done = command("verify", copied / "chosen")
    assert done.code == 1 and any("0.1230" in line and "FAILS" in line for line in done.out.splitlines())


def test_a_changed_model_is_not_verified(command: Command, copied: Path) -> None:
    (copied / "chosen" / "model.bin").write_bytes(
        b"\x00" + (copied / "chosen" / "model.bin").read_bytes()[1:] + b"\x01"
    )
    done = command("verify", copied / "chosen")
    assert done.code == 2 and "model.bin is not the file that the manifest describes" in done.error


def test_compress_and_measure_repeat_a_candidate(command: Command, study: Path, tmp_path: Path) -> None:
    digest = next(
        c["digest"] for c in json.loads((study / "candidates.json").read_text())["candidates"] if c["label"] == "int8"
    )
    recipe = study / "candidates" / digest / "recipe.yaml"
    done = command("compress", TINY, "--recipe", recipe, "--steps", 3, "--out", tmp_path / "again")
    assert done.code == 0 and "speed-up over FP32" in done.out and "zipped size" in done.out
    rows = [line.split() for line in done.out.splitlines() if "→" in line]
    assert [cells[0] for cells in rows[1:]] == ["0", "3", "7", "total"]
    assert all("8 / 8" in " ".join(cells) for cells in rows[1:4])
    names = {path.name for path in (tmp_path / "again").iterdir()}
    assert names == {"model.xml", "model.bin", "model.onnx", "weights.safetensors", "recipe.yaml", "training.csv"}
    same = (study / "candidates" / digest / "weights.safetensors").read_bytes()
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == same
    measured = command(
        "measure", tmp_path / "again" / "model.xml", "--baseline", recipe.with_name("model.xml"), "--max-seconds", 1
    )
    assert measured.code == 0 and re.search(
        r"(faster|slower|no difference beyond noise).*pairs, 95 % interval", measured.out
    )


@pytest.mark.parametrize(
    "name", ["search", "inspect", "sensitivity", "report", "choose", "compress", "measure", "cpu", "verify", "spaces"]
)
def test_every_command_has_help(command: Command, name: str) -> None:
    done = command(name, "--help")
    assert done.code == 0 and "Usage:" in done.out and len(done.out.splitlines()) > 6
