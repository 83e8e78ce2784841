"""What is said about the machine."""

import os

import pytest

from autocompress.errors import MeasurementError
from autocompress.measure import describe_environment

N_CORES = len(os.sched_getaffinity(0))


def test_it_names_the_processor_and_the_versions() -> None:
    found = describe_environment(1)
    assert found.cpu and found.inference_threads == 1 and found.n_cores == N_CORES
    assert {"openvino", "torch", "python"} <= set(found.versions)


@pytest.mark.parametrize("threads", [0, -1, N_CORES + 1])
def test_threads_that_there_are_no_cores_for_are_refused(threads: int) -> None:
    with pytest.raises(MeasurementError, match=rf"threads must be in 1\.\.{N_CORES}, .* but got {threads}"):
        describe_environment(threads)
