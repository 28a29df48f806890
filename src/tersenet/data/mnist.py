"""MNIST from its four original idx files, gzipped or not.

Training: images 0 to 54,999, search: the last 5,000 of the 60,000. No image is mirrored: a mirrored digit is none.

Source: LeCun et al., "Gradient-based learning applied to document recognition", 1998.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tersenet.data.arrays import ArraySource
from tersenet.data.augment import Augmentation
from tersenet.data.checks import check_labels, content_hash
from tersenet.data.splits import Data, SearchSplit, TestSplit, TrainSplit
from tersenet.errors import DataError, NotFoundError

NUM_SEARCH = 5000
MEAN, STD = (0.1307,), (0.3081,)

_SUBFOLDERS = ("", "MNIST/raw", "raw")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def mnist(path: str | Path) -> Data:
    """MNIST, ten classes, inputs of shape (1, 28, 28).

    Args:
        path: folder with ``train-images-idx3-ubyte.gz`` and the other three files, gzipped or not.

    Raises:
        NotFoundError: the folder does not exist.
        DataError: a file is missing or damaged, or a label is not a digit.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise NotFoundError(f"mnist: the folder {root} does not exist. Give the folder of the four idx files.")
    images, labels = _read_pair(root, "train")
    test_images, test_labels = _read_pair(root, "test")
    if len(images) <= NUM_SEARCH:
        raise DataError(f"mnist: {root} has {len(images)} training images, more than {NUM_SEARCH} are needed.")
    augment = Augmentation(padding=2, flip=False)

    def source(pixels: Tensor, targets: Tensor) -> ArraySource:
        return ArraySource(pixels, targets, mean=MEAN, std=STD, augment=augment)

    return Data(
        name="mnist",
        train=TrainSplit(source(images[:-NUM_SEARCH], labels[:-NUM_SEARCH])),
        search=SearchSplit(source(images[-NUM_SEARCH:], labels[-NUM_SEARCH:])),
        test=TestSplit(source(test_images, test_labels)),
        num_classes=10,
        input_shape=(1, 28, 28),
        content_hash=content_hash([images, labels, test_images, test_labels]),
    )


def _read_pair(root: Path, part: str) -> tuple[Tensor, Tensor]:
    images_name, labels_name = _FILES[part]
    images, labels = _read_idx(root, images_name, num_axes=3), _read_idx(root, labels_name, num_axes=1).long()
    if len(images) != len(labels):
        raise DataError(
            f"mnist: {root} has {len(images)} images in {images_name} and {len(labels)} labels in {labels_name}. "
            "Take both from the same download."
        )
    if images.shape[1:] != (28, 28):
        raise DataError(f"mnist: {images_name} holds images of {tuple(images.shape[1:])}, MNIST has (28, 28).")
    check_labels(labels, num_classes=10, where=f"mnist: {labels_name}")
    return images[:, None], labels


def _read_idx(root: Path, name: str, *, num_axes: int) -> Tensor:
    """A file in idx format: two zero bytes, type, number of axes, their sizes, then the values."""
    file = _find(root, name)
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"mnist: {file} is damaged ({error}). Download it again.") from error
    header_bytes = 4 + 4 * num_axes
    if len(raw) < header_bytes or raw[:4] != bytes((0, 0, 8, num_axes)):
        raise DataError(f"mnist: {file} is no idx file of bytes with {num_axes} axes. Download it again.")
    shape = struct.unpack(f">{num_axes}I", raw[4:header_bytes])
    num_values = int(np.prod(shape, dtype=np.int64))
    if len(raw) - header_bytes != num_values:
        raise DataError(
            f"mnist: {file} holds {len(raw) - header_bytes} values, its header promises {num_values}. "
            "Download it again."
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header_bytes).view(shape)


def _find(root: Path, name: str) -> Path:
    for folder in _SUBFOLDERS:
        for candidate in (root / folder / f"{name}.gz", root / folder / name):
            if candidate.is_file():
                return candidate
    raise DataError(f"mnist: {root} has no {name}.gz. Give the folder of the four idx files.")
