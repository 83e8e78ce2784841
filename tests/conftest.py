"""Settings of every test."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from autocompress.latency import LatencySettings
from autocompress.space import anchors, left_out
from tests.commands import command  # noqa: F401  # a fixture for all

hypothesis.settings.register_profile("patient", deadline=None)  # a loaded machine is not a defect
hypothesis.settings.load_profile("patient")


def pytest_configure() -> None:
    """One thread, since the networks of the tests are too small for more; before any test file is imported.

    And a cache of their own, since what is known of this CPU changes what is searched.
    """
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="autocompress-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


QUICK = LatencySettings(min_pairs=6, max_pairs=30, max_seconds=0.3, min_seconds=0.0, n_copies=2)


@pytest.fixture(autouse=True, scope="session")
def quick_timing() -> Iterator[None]:
    """Searches in tests time their models for a moment only: what they test are not the numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("controller", "evaluator"):
            patch.setattr(f"autocompress.search.{module}.LatencySettings", lambda: QUICK)
        for module in ("ending", "single", "verification"):
            patch.setattr(f"autocompress.search.{module}.FINALIST", QUICK)
        patch.setattr("autocompress.search.clock._FINALISTS_SECONDS", QUICK.max_seconds)
        yield


@pytest.fixture(autouse=True, scope="session")
def same_anchors() -> Iterator[None]:
    """Studies in tests begin with the same anchors on every CPU, as on those whose 8-bit products are exact."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "autocompress.search.controller.anchors", lambda space, graph, int8_saturates: anchors(space, graph)
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def same_spaces() -> Iterator[None]:
    """Studies in tests have the same spaces on every CPU, as on those whose 8-bit products are exact."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("autocompress.study", "autocompress.space"):
            patch.setattr(
                f"{module}.left_out",
                lambda bound, graph, objectives, probe, int8_saturates: left_out(
                    bound, graph, objectives, probe, False
                ),
            )
        yield


LONGEST_FIRST = (
    "study_failures",
    "cli",
    "study",
    "study_choice",
    "page_in_browser",
    "architectures",
    "mixing",
    "kernels",
    "readme",
    "examples",
    "training",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, since a file runs in one process and the others would wait for it at the end."""
    place = {f"test_{name}": index for index, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
