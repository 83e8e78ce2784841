"""Settings of every test."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread, since the networks of the tests are too small for more."""
    torch.set_num_threads(1)
