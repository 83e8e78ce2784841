"""What a model is: its layers, their cost, and the channels that must be removed together."""

from autocompress.graph.groups import ChannelDependencies
from autocompress.graph.inspection import inspect_model
from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph

__all__ = ["ChannelDependencies", "ChannelGroup", "Layer", "ModelGraph", "inspect_model"]
