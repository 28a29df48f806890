"""MNIST in the idx format; small copies of the format stand in for the real files."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tersenet.data import ArraySource, mnist
from tersenet.errors import DataError, NotFoundError

TRAIN, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(values: NDArray[np.uint8]) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def images_of(num_images: int, side: int = 28) -> NDArray[np.uint8]:
    numbers = np.arange(num_images, dtype=np.uint8)  # wraps around at 256
    return np.broadcast_to(numbers[:, None, None], (num_images, side, side))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """5,010 images for training and 7 for test, gzipped."""
    for prefix, num_images in (("train", 5010), ("t10k", 7)):
        labels = (np.arange(num_images) % 10).astype(np.uint8)
        for name, values in (
            (f"{prefix}-images-idx3-ubyte", images_of(num_images)),
            (f"{prefix}-labels-idx1-ubyte", labels),
        ):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values), compresslevel=1))
    return tmp_path


def replace(folder: Path, name: str, raw: bytes) -> None:
    (folder / f"{name}.gz").write_bytes(gzip.compress(raw, compresslevel=1))


def test_the_last_5000_training_images_are_for_search(folder: Path) -> None:
    data = mnist(folder)
    splits = (data.train.source, data.search.source, data.test.source)
    assert [source.num_samples for source in splits] == [10, 5000, 7]
    assert (data.num_classes, data.input_shape, data.num_trial_samples) == (10, (1, 28, 28), 2000)
    search = data.search.source
    assert isinstance(search, ArraySource)
    assert search.inputs[:3, 0, 5, 5].tolist() == [10, 11, 12]
    assert search.targets[:3].tolist() == [0, 1, 2]


def test_unpacked_files_in_the_usual_subfolder_are_read(folder: Path) -> None:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in sorted(folder.glob("*.gz")):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert mnist(folder).test.source.num_samples == 7


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        mnist(tmp_path / "nowhere")


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / f"{TRAIN_LABELS}.gz").unlink()
    with pytest.raises(DataError, match=r"has no train-labels-idx1-ubyte\.gz"):
        mnist(folder)


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_truncated_gzip_file_is_refused(folder: Path, keep: float) -> None:
    path = folder / f"{TRAIN}.gz"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is damaged.*Download it again"):
        mnist(folder)


def test_a_file_that_is_not_gzipped_is_refused(folder: Path) -> None:
    (folder / f"{TRAIN}.gz").write_text("<html>")
    with pytest.raises(DataError, match="is damaged"):
        mnist(folder)


@pytest.mark.parametrize("raw", [b"", b"\0\0\x0d\x03" + bytes(12), idx(images_of(3)[:, 0, 0])])
def test_a_file_of_another_format_is_refused(folder: Path, raw: bytes) -> None:
    replace(folder, TRAIN, raw)
    with pytest.raises(DataError, match="is no idx file of bytes with 3 axes"):
        mnist(folder)


def test_a_header_that_promises_more_is_refused(folder: Path) -> None:
    replace(folder, TRAIN, idx(images_of(5010))[:-100])
    with pytest.raises(DataError, match="holds 3927740 values, its header promises 3927840"):  # 5010 x 28 x 28
        mnist(folder)


def test_images_and_labels_of_different_number_are_refused(folder: Path) -> None:
    replace(folder, TRAIN, idx(images_of(5009)))
    with pytest.raises(DataError, match=r"5009 images .* 5010 labels"):
        mnist(folder)


def test_images_of_another_size_are_refused(folder: Path) -> None:
    replace(folder, TRAIN, idx(images_of(5010, side=8)))
    with pytest.raises(DataError, match=r"images of \(8, 8\)"):
        mnist(folder)


def test_labels_that_are_no_digits_are_refused(folder: Path) -> None:
    replace(folder, TRAIN_LABELS, idx(np.full(5010, 11, dtype=np.uint8)))
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: label 11 does not fit 10 classes"):
        mnist(folder)


def test_too_few_training_images_are_refused(folder: Path) -> None:
    replace(folder, TRAIN, idx(images_of(5000)))
    replace(folder, TRAIN_LABELS, idx(np.zeros(5000, dtype=np.uint8)))
    with pytest.raises(DataError, match="5000 training images, more than 5000 are needed"):
        mnist(folder)


def test_the_real_files_have_the_known_numbers() -> None:
    root = os.environ.get("TERSENET_DATA")
    if root is None:
        pytest.skip("TERSENET_DATA does not name the folder of the data sets")
    data = mnist(f"{root}/mnist")
    splits = (data.train.source, data.search.source, data.test.source)
    assert [source.num_samples for source in splits] == [55_000, 5_000, 10_000]
    train = data.train.source
    assert isinstance(train, ArraySource)
    assert train.targets[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]  # the well-known first labels
    inputs, _ = train.tensor(10_000)
    assert abs(float(inputs.mean())) < 0.02
