"""CIFAR-10 from its original Python batches, in a tar archive of any compression or unpacked.

Every file is checked against its published md5 before it is read, and read without running pickle code. Training:
images 0 to 44,999, search: 45,000 to 49,999, in the order of the original batches; trials use the first 2,000 of
the search images.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import functools
import hashlib
import lzma
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tersenet.data.arrays import ArraySource
from tersenet.data.augment import Augmentation
from tersenet.data.cache import read_cached, write_cached
from tersenet.data.checks import check_labels, content_hash
from tersenet.data.safe_pickle import read_pickled_dict
from tersenet.data.splits import Data, SearchSplit, TestSplit, TrainSplit
from tersenet.errors import DataError, NotFoundError

MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
FOLDER = "cifar-10-batches-py"
NUM_IMAGES, NUM_TRAIN, NUM_TEST = 60_000, 45_000, 10_000
SIZE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""What the published CIFAR ResNets were trained with."""

_MAX_MEMBER_BYTES = 40_000_000
_DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, OSError)


def cifar10(path: str | Path, *, cutout: int = 0) -> Data:
    """CIFAR-10, ten classes, inputs of shape (3, 32, 32).

    Args:
        path: the tar archive, the folder ``cifar-10-batches-py``, or a folder with either of them in it.
        cutout: side, in pixels, of a square that is blacked out in every training image, 0 to 32; 0 = none. Meant
            for trainings in which a network fits its images.

    Raises:
        NotFoundError: nothing is there.
        DataError: the archive is damaged, a member is missing or not the published one, or ``cutout`` is out of range.
    """
    if not 0 <= cutout <= SIZE:
        raise DataError(f"cifar10: cutout={cutout} is the side of a square in pixels. Give 0 (none) to {SIZE}.")
    augment = Augmentation(padding=4, flip=True, cutout=cutout)
    place = _find(Path(path).expanduser())
    stat = place.stat()
    images, labels, digest = _load(place.resolve(), stat.st_size, stat.st_mtime_ns)
    if cutout:  # other training images, so another data set to a study
        digest = hashlib.sha256(f"{digest} cutout={cutout}".encode()).hexdigest()
    num_training = NUM_IMAGES - NUM_TEST

    def source(start: int, stop: int) -> ArraySource:
        rows = slice(start, stop)
        return ArraySource(images[rows], labels[rows], mean=MEAN, std=STD, augment=augment)

    return Data(
        name="cifar10",
        train=TrainSplit(source(0, NUM_TRAIN)),
        search=SearchSplit(source(NUM_TRAIN, num_training)),
        test=TestSplit(source(num_training, NUM_IMAGES)),
        num_classes=10,
        input_shape=(3, SIZE, SIZE),
        content_hash=digest,
    )


def _find(path: Path) -> Path:
    """The archive, or the folder that holds the six files."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise NotFoundError(
            f"cifar10: {path} does not exist. Give the archive cifar-10-python.tar.gz or the folder {FOLDER}."
        )
    if (path / FOLDER).is_dir():
        return path / FOLDER
    archives = sorted(path.glob("cifar-10-python.tar*"))
    if archives and not any((path / name).exists() for name in MD5):
        return archives[0]
    return path


@functools.lru_cache(maxsize=1)
def _load(place: Path, size: int, mtime_ns: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """Images uint8 (60000, 3, 32, 32), labels int64 (60000,), both training first, and their hash.

    Size and time are there to tell a changed file from the one read before.
    """
    if place.is_dir():
        packed = _decode(_read_folder(place), place)
    else:
        key = f"cifar10 {place} {size} {mtime_ns}"
        cached = read_cached(key)
        if cached is None:
            cached = _decode(_read_archive(place), place)
            write_cached(key, cached)
        packed = cached
    flat = torch.from_numpy(packed)
    images, labels = flat[NUM_IMAGES:].view(NUM_IMAGES, 3, 32, 32), flat[:NUM_IMAGES].long()
    return images, labels, content_hash([images, labels])


def _read_folder(folder: Path) -> dict[str, bytes]:
    found = {}
    for name in MD5:
        if not (folder / name).is_file():
            raise _missing(folder, name)
        found[name] = (folder / name).read_bytes()
    return found


def _read_archive(archive: Path) -> dict[str, bytes]:
    """The six members, in one pass: going back in a compressed stream would mean to decompress it again."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|*") as tar:
            for member in tar:
                name = Path(member.name).name
                if name in MD5 and member.isfile() and member.size <= _MAX_MEMBER_BYTES:
                    stream = tar.extractfile(member)
                    found[name] = b"" if stream is None else stream.read()
    except _DAMAGED as error:
        raise DataError(
            f"cifar10: {archive} is damaged or no tar archive ({error}). "
            f"Download it again, or give the folder {FOLDER}."
        ) from error
    for name in MD5:
        if name not in found:
            raise _missing(archive, name)
    return found


def _missing(place: Path, name: str) -> DataError:
    return DataError(
        f"cifar10: {place} has no member {name}. Give the Python version of CIFAR-10: "
        f"cifar-10-python.tar.gz, or the folder {FOLDER} with {', '.join(MD5)}."
    )


def _decode(members: dict[str, bytes], place: Path) -> NDArray[np.uint8]:
    """All labels, then all pixels, as one row of bytes: the form of the cache."""
    labels, pixels = [], []
    for name, md5 in MD5.items():
        where = f"cifar10: {place}, member {name}"
        found = hashlib.md5(members[name], usedforsecurity=False).hexdigest()
        if found != md5:
            raise DataError(f"{where}: its md5 is {found}, the published one is {md5}. Download it again.")
        batch = read_pickled_dict(members[name], where=where)
        batch_labels = torch.tensor(batch[b"labels"], dtype=torch.int64)
        check_labels(batch_labels, num_classes=10, where=where)
        labels.append(batch_labels.numpy().astype(np.uint8))
        pixels.append(batch[b"data"].reshape(-1))
    return np.concatenate(labels + pixels)
