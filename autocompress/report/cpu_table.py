"""What a processor rewards, as a table for a terminal and in a few sentences."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from autocompress.cpu_probe import CpuProbe, LayerKind, ProbeRow, Question, Verdict
from autocompress.report.wording import printable, threads_words, times

QUESTIONS: dict[Question, str] = {
    "int8": "INT8 against FP32",
    "weights_only_int8": "weights alone in INT8",
    "weights_only_int4": "weights alone in INT4",
    "narrow_weights": "INT4 weights in INT8 kernels",
    "seven_bits": "7-bit weights",
    "narrow_inputs": "inputs below 8 bits",
    "per_tensor": "one step a tensor",
    "binary": "binary convolutions",
    "sparse": "70 % zero weights",
    "float_precision": "16-bit floats",
    "switches": "switches of precision",
    "channels": "number of channels",
}
KIND_WORDS: dict[LayerKind, str] = {
    "conv3x3": "conv 3x3",
    "conv1x1": "conv 1x1",
    "depthwise": "depthwise 3x3",
    "linear": "Linear",
}
VERDICT_STYLES: dict[Verdict, str] = {"faster": "green", "slower": "red", "same": "", "unclear": "dim"}


def cpu_table(probe: CpuProbe) -> Table:
    """One row a comparison, grouped by question; ratios above 1 are faster, with their 95 % intervals.

    A `*` marks a row that was measured on a busy machine or is less exact than asked for.
    """
    title = f"{printable(probe.cpu)}, OpenVINO {probe.openvino}, {threads_words(probe.n_threads)}"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for name in ("asked", "layers", "sizes", "compared", "verdict"):
        table.add_column(name, overflow="fold")
    table.add_column("speed-up", justify="right", no_wrap=True)
    rows = list(grouped(probe.rows))
    for i, row in enumerate(rows):
        is_first = i == 0 or rows[i - 1].question != row.question
        is_last = i + 1 == len(rows) or rows[i + 1].question != row.question
        table.add_row(*_cells(row, is_first), end_section=is_last)
    return table


def cpu_sentences(probe: CpuProbe) -> list[str]:
    """What follows from the probe for whoever compresses a model, and what it could not find out."""
    found = [_bits_sentence(probe)]
    found += [
        _kinds_sentence(probe, "int8", "INT8"),
        _kinds_sentence(probe, "weights_only_int8", "Weights alone in INT8"),
    ]
    found += [
        _effect_sentence(probe, "narrow_weights", "INT4 weights in INT8 kernels", "size only"),
        _effect_sentence(probe, "sparse", "70 % zero weights", "only for the size of a zip archive"),
        _effect_sentence(probe, "binary", "A binary convolution beside INT8", "size only"),
        _effect_sentence(probe, "switches", "Switching between FP32 and INT8 in turn", ""),
        _channel_sentence(probe),
    ]
    found.append(_precision_sentence(probe))
    if not probe.is_clear:
        n_unclear = sum(row.verdict == "unclear" for row in probe.rows)
        found.append(f"Noise hides {n_unclear} of {len(probe.rows)} answers; probe again when this machine is idle")
    found += [f"Not answered: {printable(what)}: {printable(why)}" for what, why in probe.unanswered.items()]
    return [sentence for sentence in found if sentence]


def grouped(rows: Iterable[ProbeRow]) -> Iterable[ProbeRow]:
    """The rows in the order of `QUESTIONS`, those of one question as they were."""
    every = tuple(rows)
    return (row for question in QUESTIONS for row in every if row.question == question)


def compared(row: ProbeRow) -> str:
    """`INT8 / FP32`; for numbers of channels `INT8: 48 / 64 channels`."""
    if row.n_channels:
        return f"{row.variant}: {row.n_channels} / {row.baseline}"
    return f"{row.variant} / {row.baseline}"


def _cells(row: ProbeRow, is_first: bool) -> list[Text]:
    verdict = f"{row.verdict}{' *' if row.is_noisy else ''}"
    return [
        Text(QUESTIONS[row.question] if is_first else ""),
        Text(KIND_WORDS[row.kind]),
        Text(printable(row.shape)),
        Text(printable(compared(row))),
        Text(verdict, style=VERDICT_STYLES[row.verdict]),
        Text(times(row.speedup)),
    ]


def _bits_sentence(probe: CpuProbe) -> str:
    if probe.int8_saturates:
        return "Products of 8-bit weights saturate here: weights have 7 bits by default, in the same kernels"
    return "8-bit weights are exact here, and the default; 7 bits buy nothing"


def _kinds_sentence(probe: CpuProbe, question: Question, what: str) -> str:
    """`INT8: conv 3x3 2.78x to 3.70x, ...`, each kind with the verdict where it is not faster."""
    parts = []
    for kind, words in KIND_WORDS.items():
        if probe.rows_of(question, kind):
            verdicts = {row.verdict for row in probe.rows_of(question, kind)}
            note = "" if verdicts == {"faster"} else f" ({', '.join(sorted(verdicts))})"
            parts.append(f"{words} {_range(probe, question, kind)}{note}")
    return f"{what}: {', '.join(parts)}" if parts else ""


def _effect_sentence(probe: CpuProbe, question: Question, what: str, use: str) -> str:
    if not probe.rows_of(question):
        return ""
    is_faster = probe.is_faster(question)
    ratio = _range(probe, question)
    if is_faster is None:
        return f"{what}: {ratio}, no clear answer"
    if is_faster:
        return f"{what}: {ratio}, faster for {_names(r.kind for r in probe.rows_of(question) if r.verdict == 'faster')}"
    return f"{what}: {ratio}, not faster{f'; {use}' if use else ''}"


def _precision_sentence(probe: CpuProbe) -> str:
    if probe.float_precision == "f32" or not probe.rows_of("float_precision"):
        return ""
    ratio = _range(probe, "float_precision")
    return (
        f"OpenVINO by itself runs float layers in {probe.float_precision} here: {ratio} beside f32; a study times its "
        "baseline in f32"
    )


def _channel_sentence(probe: CpuProbe) -> str:
    parts = []
    for variant in ("FP32", "INT8"):
        if block := probe.granularity(variant):
            parts.append(f"by {block} in {variant}" if block > 1 else f"one by one in {variant}")
    return f"Channels of convolutions are computed {' and '.join(parts)}" if parts else ""


def _range(probe: CpuProbe, question: Question, kind: LayerKind | None = None) -> str:
    values = [row.speedup.value for row in probe.rows_of(question, kind)]
    low, high = f"{min(values):.2f}x", f"{max(values):.2f}x"
    return low if low == high else f"{low} to {high}"


def _names(kinds: Iterable[LayerKind]) -> str:
    return ", ".join(dict.fromkeys(KIND_WORDS[kind] for kind in kinds))
