"""What the processor at hand can do, for tests whose numbers depend on it."""

from pathlib import Path

import pytest

FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
HAS_VNNI = any(flag in FLAGS for flag in ("avx512_vnni", "avx_vnni"))
exact_on_this_processor = pytest.mark.skipif(not HAS_VNNI, reason="8-bit products saturate on this processor")
