"""The probe of a processor as table, text, sentences and picture."""

import io
import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from autocompress.cpu_probe import CpuProbe, ProbeRow
from autocompress.measurement import Speedup
from autocompress.report.cpu_svg import write_cpu_svg
from autocompress.report.cpu_table import cpu_sentences, cpu_table


def row(question, value=2.0, half=0.02, kind="conv3x3", variant="INT8", baseline="FP32", **changes):
    speedup = Speedup(value=value, low=value - half, high=value + half, n_pairs=40)
    fields = {"question": question, "kind": kind, "shape": "128 channels, 7x7", "variant": variant}
    return ProbeRow(**fields, baseline=baseline, speedup=speedup, **changes)


def stairs(variant="FP32"):
    return [
        row("channels", 8 / -(-n // 8), variant=variant, baseline="64 channels", n_channels=n)
        for n in (40, 44, 48, 49, 56, 60)
    ]


def probe(*rows, **changes):
    key = {"cpu": "A CPU", "capabilities": ("FP32", "INT8"), "openvino": "2026.4.1", "n_threads": 1}
    return CpuProbe(**(key | {"int8_saturates": True, "rows": rows} | changes))


ROWS = (
    row("int8", 2.0),
    row("int8", 0.8, kind="linear"),
    row("binary", 1.0, 0.2, variant="binary", baseline="INT8", is_noisy=True),
    *stairs(),
)


def cpu_text(found) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(cpu_table(found))
    return console.export_text()


def test_the_text_has_a_line_a_row_with_interval_and_verdict() -> None:
    text = cpu_text(probe(*ROWS))
    assert re.search(r"INT8 against FP32 +conv 3x3 .*INT8 / FP32 +faster +2.00x \[1.98, 2.02\]", text)
    assert re.search(r"\n +Linear .*INT8 / FP32 +slower +0.80x \[0.78, 0.82\]", text)
    assert re.search(r"binary / INT8 +unclear \* +1.00x \[0.80, 1.20\]", text)
    assert re.search(r"FP32: 48 / 64 channels", text)


def test_the_table_keeps_the_rows_of_a_question_together() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(cpu_table(probe(ROWS[2], ROWS[1], ROWS[0])))
    text = console.export_text()
    assert text.index("Linear") < text.index("conv 3x3") < text.index("binary convolutions")
    assert text.count("INT8 against FP32") == 1


SENTENCES = [  # id, probe, sentence
    (
        "saturation",
        probe(*ROWS),
        "Products of 8-bit weights saturate here: weights have 7 bits by default, in the same kernels",
    ),
    (
        "no saturation",
        probe(*ROWS, int8_saturates=False),
        "8-bit weights are exact here, and the default; 7 bits buy nothing",
    ),
    ("kinds", probe(*ROWS), "INT8: conv 3x3 2.00x, Linear 0.80x (slower)"),
    ("two sizes", probe(row("int8", 2.0), row("int8", 1.0)), "INT8: conv 3x3 1.00x to 2.00x (faster, same)"),
    ("noise", probe(*ROWS), "A binary convolution beside INT8: 1.00x, no clear answer"),
    ("not faster", probe(row("narrow_weights", 1.0)), "INT4 weights in INT8 kernels: 1.00x, not faster; size only"),
    (
        "faster",
        probe(row("sparse", 1.0), row("sparse", 2.0, kind="linear")),
        "70 % zero weights: 1.00x to 2.00x, faster for Linear",
    ),
    (
        "a busy machine",
        probe(row("int8", 1.0, 0.5), row("int8")),
        "Noise hides 1 of 2 answers; probe again when this machine is idle",
    ),
    ("staircase", probe(*ROWS), "Channels of convolutions are computed by 8 in FP32"),
    (
        "16-bit floats",
        probe(row("float_precision", 1.7), float_precision="bf16"),
        "OpenVINO by itself runs float layers in bf16 here: 1.70x beside f32; a study times its baseline in f32",
    ),
    (
        "failures",
        probe(*ROWS, unanswered={"binary against INT8": "no kernel"}),
        "Not answered: binary against INT8: no kernel",
    ),
]


@pytest.mark.parametrize(("asked", "sentence"), [pytest.param(*r[1:], id=r[0]) for r in SENTENCES])
def test_a_sentence_tells_of(asked, sentence) -> None:
    assert sentence in cpu_sentences(asked)


def test_what_was_not_asked_has_no_sentence() -> None:
    assert len(cpu_sentences(probe(row("int8")))) == 2


def texts_of(path):
    return re.findall(r"<!-- (.*?) -->", path.read_text())


def test_the_picture_names_every_row_with_its_ratio(tmp_path) -> None:
    write_cpu_svg(probe(*ROWS), tmp_path / "cpu.svg")
    ElementTree.parse(tmp_path / "cpu.svg")
    texts = texts_of(tmp_path / "cpu.svg")
    assert "INT8 / FP32: conv 3x3, 128 channels, 7x7" in texts
    assert {"2.00x", "0.80x", "1.00x", "INT8 against FP32", "binary convolutions"} <= set(texts)
    assert "latency, 1 at 64 channels" in texts


def test_equal_probes_give_equal_bytes(tmp_path) -> None:
    for name in ("a.svg", "b.svg"):
        write_cpu_svg(probe(*ROWS), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


PARTS = [  # id, rows
    ("bars alone", ROWS[:2]),
    ("the staircase alone", tuple(stairs() + stairs("INT8"))),
    ("one row", (row("switches", 1.0),)),
]


@pytest.mark.parametrize("rows", [pytest.param(r[1], id=r[0]) for r in PARTS])
def test_a_picture_of(tmp_path, rows) -> None:
    write_cpu_svg(probe(*rows), tmp_path / "cpu.svg")
    assert "What this CPU rewards" in texts_of(tmp_path / "cpu.svg")
