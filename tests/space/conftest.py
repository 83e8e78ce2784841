"""A small model's graph: a stem, three layers that read one tensor, an embedding that cannot be compressed."""

import pytest

from autocompress.graph.model_graph import ChannelGroup, Layer, ModelGraph


def _layer(name: str, kind: str = "Linear", reads: str = "", reason: str = "") -> Layer:
    return Layer(name, kind, (4, 4), (1, 4), (1, 4), 16, 20, reads or name, reason)


@pytest.fixture
def graph() -> ModelGraph:
    return ModelGraph(
        layers=(
            _layer("stem", kind="Conv2d"),
            _layer("block.query"),
            _layer("block.key", reads="block.query"),
            _layer("block.value", reads="block.query"),
            _layer("words", kind="Embedding", reason="an Embedding has no input to quantize"),
        ),
        groups=(
            ChannelGroup("stem", ("stem",), 16),
            ChannelGroup("block.value", ("block.value",), 4, reason="it gives the output of the model"),
        ),
    )
