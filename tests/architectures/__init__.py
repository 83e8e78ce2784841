"""Small networks of the architectures that people compress, by hand or from configs of the transformers library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tests.architectures import convolutional as images
from tests.architectures import other
from tests.architectures import transformer as tokens

IMAGE, SMALL_IMAGE, WAVE, ROWS = (3, 16, 16), (3, 8, 8), (4, 32), (8, 4)
TOKENS = "tokens"


@dataclass(frozen=True)
class Architecture:
    """A network's maker, the shapes of its inputs for one sample, and what of it can be pruned.

    `n_prunable` counts the groups of channels that can be pruned at least, `n_heads` those of them made of heads.
    """

    name: str
    make: Callable[[], nn.Module]
    n_prunable: int
    shapes: Any = SMALL_IMAGE
    n_heads: int = 0

    def build(self, seed: int = 0) -> nn.Module:
        """The network with weights and batch-norm statistics that differ from the start; evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.make()
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name.lower() or parameter.dim() == 1:
                    nn.init.uniform_(parameter, 0.5, 1.0)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_mean.normal_(std=0.3)
                    module.running_var.uniform_(0.5, 1.5)
        return model.eval()

    def inputs(self, n: int = 1, seed: int = 1) -> Any:
        """Inputs of `n` samples."""
        generator = torch.Generator().manual_seed(seed)
        if self.shapes == TOKENS:
            return torch.randint(2, tokens.WORDS, (n, 8), generator=generator)
        if isinstance(self.shapes, dict):
            return {key: torch.randn(n, *shape, generator=generator) for key, shape in self.shapes.items()}
        return torch.randn(n, *self.shapes, generator=generator)


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("resnet", images.resnet, 6),
        Architecture("resnext", images.resnext, 5),
        Architecture("densenet", images.densenet, 6),
        Architecture("mobilenet_v2", images.mobilenet_v2, 6),
        Architecture("mobilenet_v3", images.mobilenet_v3, 7),
        Architecture("efficientnet_lite", images.efficientnet_lite, 6),
        Architecture("shufflenet", images.shufflenet, 2),
        Architecture("squeezenet", images.squeezenet, 7, IMAGE),
        Architecture("vgg", images.vgg, 4, IMAGE),
        Architecture("ghostnet", images.ghostnet, 4),
        Architecture("inception", images.inception, 13),
        Architecture("cross_stage", images.CrossStage, 4),
        Architecture("gated_units", images.GatedUnits, 3),
        Architecture("convnext", images.convnext, 4, IMAGE),
        Architecture("shared_block", images.SharedBlock, 3),
        Architecture("weight_norm", images.weight_normed, 2),
        Architecture("spectral_norm", images.spectral_normed, 2),
        Architecture("static_view", images.StaticView, 2),
        Architecture("unet", other.UNet, 5),
        Architecture("feature_pyramid", other.FeaturePyramid, 5),
        Architecture("autoencoder", other.autoencoder, 3),
        Architecture("convolutions_1d", other.convolutions_1d, 3, WAVE),
        Architecture("temporal_convolutions", other.TemporalConvolutions, 4, WAVE),
        Architecture("convolutions_3d", other.convolutions_3d, 2, (1, 4, 8, 8)),
        Architecture("two_inputs", other.TwoInputs, 4, {"image": SMALL_IMAGE, "numbers": (4,)}),
        Architecture("two_outputs", other.TwoOutputs, 3),
        Architecture("lstm", other.lstm, 2, ROWS),
        Architecture("gru", other.gru, 2, ROWS),
        Architecture("vit", tokens.vit, 5, IMAGE, n_heads=2),
        Architecture("swin", tokens.swin, 9, (3, 32, 32), n_heads=4),
        Architecture("bert", tokens.bert, 6, TOKENS, n_heads=2),
        Architecture("distilbert", tokens.distilbert, 6, TOKENS, n_heads=2),
        Architecture("albert", tokens.albert, 4, TOKENS, n_heads=1),
        Architecture("opt", tokens.opt, 4, TOKENS, n_heads=2),
        Architecture("t5_encoder", tokens.t5_encoder, 2, TOKENS),
        Architecture("gpt", tokens.Gpt, 5, TOKENS, n_heads=2),
        Architecture("torch_encoder", tokens.TorchEncoder, 5, ROWS, n_heads=2),
    )
}
