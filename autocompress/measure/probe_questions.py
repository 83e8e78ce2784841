"""What is asked of a processor: pairs of small nets that differ in one thing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from autocompress.cpu_probe import LayerKind, Question
from autocompress.measure.probe_models import ProbeNet
from autocompress.recipe import LayerRecipe

CHANNELS = (40, 44, 48, 49, 56, 60)
MOST_CHANNELS = 64
SPARSITY = 0.7

FP32 = LayerRecipe()
INT8 = LayerRecipe(weight_bits=8, activation_bits=8)

# kind of layer, channels, side or rows, number of layers; each about a millisecond in FP32 on one core
_SMALL: dict[LayerKind, ProbeNet] = {
    "conv3x3": ProbeNet("conv3x3", 128, 7, (FP32,) * 8),
    "conv1x1": ProbeNet("conv1x1", 256, 7, (FP32,) * 12),
    "depthwise": ProbeNet("depthwise", 384, 14, (FP32,) * 12),
    "linear": ProbeNet("linear", 384, 1, (FP32,) * 16),
}
_LARGE: dict[LayerKind, ProbeNet] = {
    "conv3x3": ProbeNet("conv3x3", 16, 56, (FP32,) * 6),
    "conv1x1": ProbeNet("conv1x1", 32, 56, (FP32,) * 8),
    "depthwise": ProbeNet("depthwise", 32, 56, (FP32,) * 10),
    "linear": ProbeNet("linear", 256, 128, (FP32,) * 6),
}
_KINDS: tuple[LayerKind, ...] = ("conv3x3", "conv1x1", "depthwise", "linear")


@dataclass(frozen=True)
class Comparison:
    """Two nets to be timed against each other.

    Attributes:
        question: What is asked.
        variant: What `candidate` is, in words.
        baseline_words: What `baseline` is, in words.
        candidate: The net that tries it.
        baseline: The net that does not.
        n_channels: Channels between its layers, where that is what is asked.
    """

    question: Question
    variant: str
    baseline_words: str
    candidate: ProbeNet
    baseline: ProbeNet
    n_channels: int | None = None

    @property
    def words(self) -> str:
        """The comparison on one line, different for each."""
        channels = f"{self.n_channels} channels, " if self.n_channels else ""
        of = f"{channels}{self.candidate.kind}, {self.candidate.shape_words}"
        return f"{self.variant} against {self.baseline_words}: {of}"


def comparisons() -> tuple[Comparison, ...]:
    """Every comparison, the most important first, since time may end."""
    return (*_int8(), *_weights_only(), *_storage(), *_channels(), *_sparse(), *_details())


def float_nets() -> tuple[ProbeNet, ...]:
    """Nets to be timed in the precision that OpenVINO chooses for float layers, where that is not f32."""
    return _LARGE["conv3x3"], _SMALL["conv3x3"], _LARGE["linear"], _SMALL["linear"]


def _with(net: ProbeNet, layer: LayerRecipe) -> ProbeNet:
    return replace(net, layers=(layer,) * len(net.layers))


def _int8() -> Iterator[Comparison]:
    for kind in _KINDS:
        for net in (_LARGE[kind], _SMALL[kind]):
            yield Comparison("int8", "INT8", "FP32", _with(net, INT8), net)


def _weights_only() -> Iterator[Comparison]:
    nets = (_SMALL["linear"], _LARGE["linear"], _SMALL["conv3x3"], _SMALL["conv1x1"])
    for net in nets:
        yield Comparison("weights_only_int8", "INT8 weights", "FP32", _with(net, LayerRecipe(weight_bits=8)), net)
    for net in nets[:2]:
        yield Comparison("weights_only_int4", "INT4 weights", "FP32", _with(net, LayerRecipe(weight_bits=4)), net)


def _storage() -> Iterator[Comparison]:
    narrow = LayerRecipe(weight_bits=4, activation_bits=8)
    for net in (_SMALL["conv3x3"], _SMALL["conv1x1"], _SMALL["linear"], _LARGE["linear"]):
        yield Comparison("narrow_weights", "INT4 weights", "INT8", _with(net, narrow), _with(net, INT8))


def _channels() -> Iterator[Comparison]:
    net = ProbeNet("conv3x3", MOST_CHANNELS, 14, (FP32,) * 8)
    for name, layer in (("FP32", FP32), ("INT8", INT8)):
        widest = _with(net, layer)
        for n in CHANNELS:
            yield Comparison("channels", name, f"{MOST_CHANNELS} channels", replace(widest, inner=n), widest, n)


def _sparse() -> Iterator[Comparison]:
    for net in (_SMALL["conv3x3"], _LARGE["linear"], _SMALL["linear"]):
        for name, layer in (("FP32", FP32), ("INT8", INT8)):
            sparse = layer.model_copy(update={"sparsity": SPARSITY})
            yield Comparison("sparse", f"{name}, 70 % zeros", name, _with(net, sparse), _with(net, layer))


def _details() -> Iterator[Comparison]:
    net = _SMALL["conv3x3"]
    int8 = _with(net, INT8)
    seven = LayerRecipe(weight_bits=7, activation_bits=8)
    for same in (net, _LARGE["linear"]):
        yield Comparison("seven_bits", "7-bit weights", "INT8", _with(same, seven), _with(same, INT8))
    narrow = LayerRecipe(weight_bits=8, activation_bits=4)
    yield Comparison("narrow_inputs", "4-bit inputs", "INT8", _with(net, narrow), int8)
    whole = INT8.model_copy(update={"weight_granularity": "per_tensor"})
    yield Comparison("per_tensor", "one step a tensor", "one a channel", _with(net, whole), int8)
    binary = LayerRecipe(weight_bits=1, activation_bits=1)
    yield Comparison("binary", "binary", "INT8", _with(net, binary), int8)
    alternating = replace(net, layers=(FP32, INT8) * 4)
    halves = replace(net, layers=(FP32,) * 4 + (INT8,) * 4)
    yield Comparison("switches", "in turn", "in halves", alternating, halves)
