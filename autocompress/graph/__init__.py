"""What a model is: its layers, their cost, and the channels that must be removed together."""

from autocompress.graph.attention import UnfoldedAttention, fold_attention, unfold_attention
from autocompress.graph.dependencies import ChannelDependencies
from autocompress.graph.inspection import inspect_model
from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph
from autocompress.graph.selection import select_layers

__all__ = [
    "ChannelDependencies",
    "ChannelGroup",
    "Layer",
    "ModelGraph",
    "UnfoldedAttention",
    "fold_attention",
    "inspect_model",
    "select_layers",
    "unfold_attention",
]
