"""The zipped size against a real zip archive."""

import io
import random
import zipfile
from pathlib import Path

import pytest

from autocompress.deploy import zipped_bytes


def archived(*files: Path) -> int:
    """Compressed bytes of the files in an archive of the standard library."""
    with zipfile.ZipFile(io.BytesIO(), "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for file in files:
            archive.write(file)
        return sum(info.compress_size for info in archive.infolist())


@pytest.mark.parametrize("n_bytes", [0, 1, 1000, 3_000_000], ids=["empty", "one", "one block", "many blocks"])
def test_it_is_what_a_zip_archive_holds(n_bytes: int, tmp_path: Path) -> None:
    xml, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    xml.write_text("<net>" + "<layer/>" * 1000 + "</net>")
    weights.write_bytes(random.Random(0).randbytes(n_bytes))
    assert zipped_bytes(xml) == archived(xml, weights)


def test_an_onnx_file_stands_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(5000))
    (tmp_path / "model.bin").write_bytes(random.Random(0).randbytes(5000))
    assert zipped_bytes(path) == archived(path) < 100


def test_zeros_take_next_to_nothing_and_nothing_is_written(tmp_path: Path) -> None:
    xml = tmp_path / "model.xml"
    xml.write_text("<net/>")
    sizes = []
    for n_zeros in (0, 70_000):
        (tmp_path / "model.bin").write_bytes(random.Random(0).randbytes(100_000 - n_zeros) + bytes(n_zeros))
        sizes.append(zipped_bytes(xml))
    assert sizes[1] == pytest.approx(0.3 * sizes[0], rel=0.02)
    assert len(list(tmp_path.iterdir())) == 2
