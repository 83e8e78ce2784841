"""Settings of every test."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("patient", deadline=None)  # a loaded machine is not a defect
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """One thread, since the networks of the tests are too small for more."""
    torch.set_num_threads(1)
