"""8-bit saturation, on this CPU made to forget its VNNI instructions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
PROBE = "from autocompress.measure import int8_saturates; print(int8_saturates())"


@pytest.mark.skipif("avx512bw" not in FLAGS, reason="needs AVX-512, which oneDNN can use without VNNI")
def test_kernels_without_vnni_saturate() -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.skipif("avx512_vnni" not in FLAGS, reason="needs VNNI")
def test_kernels_with_vnni_are_exact() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
