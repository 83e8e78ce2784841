"""Ranges of the input quantizers from data, by streaming statistics; no activations are stored."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from autocompress.compress.quantization import InputQuantizer
from autocompress.errors import CompressionError
from autocompress.task import Batch, call, split_batch

OUTLIERS = 1e-4  # fraction of values that may lie outside at either end
_N_SAMPLED = 65536  # values a batch that the quantiles are taken from


class _RangeObserver:
    """Mean over batches of the outlier-trimmed smallest and largest input of one quantizer."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.n = 0

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        x = inputs[0].detach().flatten()
        if not torch.isfinite(x).all():
            raise CompressionError("its input has values that are NaN or infinite in the calibration data")
        step = max(1, x.numel() // _N_SAMPLED)
        sample = x[::step]
        k = max(1, int(OUTLIERS * sample.numel()))
        low, high = -float((-sample).topk(k).values[-1]), float(sample.topk(k).values[-1])
        self.n += 1
        self.low += (low - self.low) / self.n
        self.high += (high - self.high) / self.n


def calibrate(model: nn.Module, batches: Iterable[Batch], n_batches: int = 4) -> None:
    """Set the range of every input quantizer in `model` from the first batches of data.

    Args:
        model: Module with quantizers attached; in evaluation mode afterwards.
        batches: Batches of (inputs, targets).
        n_batches: How many of them are read.

    Raises:
        CompressionError: There is no batch, or a layer's input is not finite; the layer is named.
    """
    quantizers = {n: m for n, m in model.named_modules() if isinstance(m, InputQuantizer)}
    observers = {name: _RangeObserver() for name in quantizers}
    handles = [quantizers[name].register_forward_hook(_named(name, observer)) for name, observer in observers.items()]
    for quantizer in quantizers.values():
        quantizer.enabled = False
    try:
        n_read = _run(model, batches, n_batches)
    finally:
        for handle in handles:
            handle.remove()
        for quantizer in quantizers.values():
            quantizer.enabled = True
    if n_read == 0:
        raise CompressionError("calibration needs at least one batch of training data, but got none")
    for name, observer in observers.items():
        if observer.n:
            quantizers[name].set_range(observer.low, observer.high)


def _named(name: str, observer: _RangeObserver) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        try:
            observer(module, inputs, output)
        except CompressionError as error:
            raise CompressionError(f"layer {name.rpartition('.')[0]!r}: {error}") from None

    return hook


def _run(model: nn.Module, batches: Iterable[Batch], n_batches: int) -> int:
    model.eval()
    n_read = 0
    with torch.no_grad():
        for batch in batches:
            call(model, split_batch(batch, "train")[0])
            n_read += 1
            if n_read == n_batches:
                break
    return n_read
