"""Transformers: by hand, and of the transformers library, built from a config without any download."""

from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

WORDS = 40
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IMAGES: dict[str, Any] = {"image_size": 16, "patch_size": 4, "num_labels": 6}


class Logits(nn.Module):
    """The first output of a model of the transformers library."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, return_dict=False)[0]


def vit() -> nn.Module:
    return Logits(transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **IMAGES)))


def swin() -> nn.Module:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=6
    )
    return Logits(transformers.SwinForImageClassification(config))


def bert() -> nn.Module:
    config = transformers.BertConfig(**SMALL, vocab_size=WORDS, max_position_embeddings=16, num_labels=6)
    return Logits(transformers.BertForSequenceClassification(config))


def distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=WORDS, max_position_embeddings=16, num_labels=6
    )
    return Logits(transformers.DistilBertForSequenceClassification(config))


def albert() -> nn.Module:
    """Both layers are one module called twice."""
    config = transformers.AlbertConfig(
        **SMALL, embedding_size=16, vocab_size=WORDS, max_position_embeddings=16, num_labels=6
    )
    return Logits(transformers.AlbertForSequenceClassification(config))


def opt() -> nn.Module:
    config = transformers.OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, vocab_size=WORDS,
        word_embed_proj_dim=32, max_position_embeddings=16, use_cache=False,
    )  # fmt: skip
    return Logits(transformers.OPTModel(config))


def t5_encoder() -> nn.Module:
    """The biases of the first layer's heads go to all layers."""
    config = transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=WORDS, use_cache=False
    )
    return Logits(transformers.T5EncoderModel(config))


class FusedAttention(nn.Module):
    """One layer for queries, keys and values, as in GPT-2 and in timm."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = n_heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(attended.transpose(1, 2).reshape(n, length, -1))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, width: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class Gpt(nn.Module):
    """Blocks with the norm first and a causal mask (Radford et al. 2019, section 2.3), its output tied to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        self.blocks = nn.Sequential(*(Block(FusedAttention(32, 4), 32) for _ in range(2)))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, WORDS, bias=False)
        self.out.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.norm(self.blocks(self.words(tokens) + self.positions)))


class TorchEncoder(nn.Module):
    """`nn.TransformerEncoder`, whose attention is unfolded first."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, dim_feedforward=64, batch_first=True)
        self.embed, self.encoder = nn.Linear(4, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(dim=1))
