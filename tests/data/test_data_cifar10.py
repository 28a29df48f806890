"""CIFAR-10: archives and folders, damaged ones, the cache, and hostile pickles.

Small copies of the format stand in for the real files: ten images per member, checksums to match.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet.data import ArraySource, Data, cache, cifar10
from tersenet.data.safe_pickle import read_pickled_dict
from tersenet.errors import DataError, NotFoundError

reader = importlib.import_module("tersenet.data.cifar10")  # the package has a function of this name

MEMBERS = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
FOLDER = "cifar-10-batches-py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "TERSENET_CACHE" not in os.environ:
        monkeypatch.setenv("TERSENET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six members of ten images each; the reader is told their checksums and numbers."""
    monkeypatch.setenv("TERSENET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "unpacked" / FOLDER
    folder.mkdir(parents=True)
    sums = {}
    for number, name in enumerate(MEMBERS):
        raw = pickle.dumps({"data": pixels_of(number), "labels": labels_of(number)}, protocol=2)
        (folder / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw).hexdigest()
    monkeypatch.setattr(reader, "MD5", sums)
    monkeypatch.setattr(reader, "NUM_IMAGES", 60)
    monkeypatch.setattr(reader, "NUM_TRAIN", 45)
    monkeypatch.setattr(reader, "NUM_TEST", 10)
    reader._load.cache_clear()
    return folder


def pixels_of(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 256, (10, 3072), dtype=np.uint8)


def labels_of(number: int) -> list[int]:
    return [(number + position) % 10 for position in range(10)]


def packed(folder: Path, archive: Path, mode: str = "w:gz", leave_out: str = "") -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for name in MEMBERS:
            if name != leave_out:
                tar.add(folder / name, arcname=f"{FOLDER}/{name}")
    return archive


def check_contents(data: Data) -> None:
    pixels = np.concatenate([pixels_of(number) for number in range(6)]).reshape(60, 3, 32, 32)
    labels = np.concatenate([labels_of(number) for number in range(6)])
    for split, rows in ((data.train, slice(0, 45)), (data.search, slice(45, 50)), (data.test, slice(50, 60))):
        assert isinstance(split.source, ArraySource)
        np.testing.assert_array_equal(split.source.inputs.numpy(), pixels[rows])
        np.testing.assert_array_equal(split.source.targets.numpy(), labels[rows])


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_an_archive_of_any_compression_is_read(small: Path, tmp_path: Path, mode: str) -> None:
    check_contents(cifar10(packed(small, tmp_path / "some.tar", mode)))


def test_the_folder_its_parent_and_the_folder_of_the_archive_are_read(small: Path, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    packed(small, tmp_path / "beside" / "cifar-10-python.tar.gz")
    for path in (small, small.parent, tmp_path / "beside"):
        reader._load.cache_clear()
        check_contents(cifar10(str(path)))


def test_the_second_process_reads_the_cache(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(small, tmp_path / "some.tar.gz")
    first = cifar10(archive)
    reader._load.cache_clear()  # as in a new process
    monkeypatch.delattr(reader, "_read_archive")
    second = cifar10(archive)
    check_contents(second)
    assert second.content_hash == first.content_hash


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 200_000])
def test_a_broken_cache_is_made_again(small: Path, tmp_path: Path, damage: bytes) -> None:
    archive = packed(small, tmp_path / "some.tar.gz")
    cifar10(archive)
    (cached,) = cache.cache_folder().iterdir()
    good = cached.read_bytes()
    cached.write_bytes(damage)
    reader._load.cache_clear()
    check_contents(cifar10(archive))
    assert cached.read_bytes() == good


def test_another_archive_in_the_same_place_is_not_taken_from_the_cache(small: Path, tmp_path: Path) -> None:
    archive = packed(small, tmp_path / "some.tar.gz")
    cifar10(archive)
    packed(small, archive, leave_out="data_batch_3")
    with pytest.raises(DataError, match="data_batch_3"):
        cifar10(archive)


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").write_text("")
    monkeypatch.setenv("TERSENET_CACHE", str(tmp_path / "a_file" / "cache"))
    check_contents(cifar10(packed(small, tmp_path / "some.tar.gz")))


def test_cutout_changes_training_images_alone_and_is_another_data_set(small: Path) -> None:
    plain, cut, further = (cifar10(small, cutout=side) for side in (0, 8, 9))
    check_contents(cut)
    assert len({plain.content_hash, cut.content_hash, further.content_hash}) == 3
    (ours, _), (theirs, _) = (
        next(iter(data.train.source.batches(45, shuffle_seed=0, augment=True))) for data in (plain, cut)
    )
    changed = (torch.as_tensor(ours) != torch.as_tensor(theirs)).any(dim=1)
    assert 0 < changed.float().mean() <= 64 / 1024
    for split in ("search", "test"):
        (ours, _), (theirs, _) = (next(iter(getattr(data, split).source.batches(10))) for data in (plain, cut))
        assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


@pytest.mark.parametrize("side", [-1, 33])
def test_a_square_that_is_no_part_of_an_image_is_refused(small: Path, side: int) -> None:
    with pytest.raises(DataError, match=rf"cifar10: cutout={side} is .* Give 0 \(none\) to 32"):
        cifar10(small, cutout=side)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere does not exist.*cifar-10-python\.tar\.gz"):
        cifar10(tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_a_truncated_archive_is_refused(small: Path, tmp_path: Path, mode: str) -> None:
    archive = packed(small, tmp_path / "some.tar", mode)
    raw = archive.read_bytes()
    archive.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(DataError, match=r"some\.tar (is damaged|has no member)"):
        cifar10(archive)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"is damaged or no tar archive.*Download it again"):
        cifar10(tmp_path / "some.tar.gz")


def test_a_missing_member_is_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no member test_batch"):
        cifar10(packed(small, tmp_path / "some.tar.gz", leave_out="test_batch"))
    (small / "data_batch_2").unlink()
    with pytest.raises(DataError, match="has no member data_batch_2"):
        cifar10(small)


def test_a_changed_member_is_refused_before_it_is_read(small: Path) -> None:
    shutil.copy(small / "data_batch_1", small / "data_batch_4")
    with pytest.raises(DataError, match=r"member data_batch_4: its md5 is .* Download it again"):
        cifar10(small)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "was_run"),)

    with pytest.raises(DataError, match=r"evil: this is not a CIFAR-10 file \(it names posix\.mkdir"):
        read_pickled_dict(pickle.dumps({"data": Hostile()}), where="evil")
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickles_of_every_protocol_are_read(protocol: int) -> None:
    raw = pickle.dumps({"data": pixels_of(0), "labels": [3, 1]}, protocol=protocol)
    found = read_pickled_dict(raw, where="file")
    np.testing.assert_array_equal(found[b"data"], pixels_of(0))
    assert found[b"labels"] == [3, 1]


@pytest.mark.parametrize("value", [np.zeros(3), np.array(["text"]), np.array([object()])])
def test_arrays_of_other_types_are_refused(value: object) -> None:
    with pytest.raises(DataError, match="not a CIFAR-10 file"):
        read_pickled_dict(pickle.dumps({"data": value}, protocol=2), where="file")


@pytest.mark.parametrize("raw", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-4]])
def test_bytes_that_are_no_pickled_dictionary_are_refused(raw: bytes) -> None:
    with pytest.raises(DataError, match="file: this is not a CIFAR-10 file"):
        read_pickled_dict(raw, where="file")


@pytest.mark.slow
def test_the_real_archive_holds_5000_and_1000_images_per_class() -> None:
    root = os.environ.get("TERSENET_DATA")
    if root is None:
        pytest.skip("TERSENET_DATA does not name the folder of the data sets")
    reader._load.cache_clear()
    data = cifar10(f"{root}/cifar10")
    sources = [data.train.source, data.search.source, data.test.source]
    counts = [np.bincount(source.targets.numpy()) for source in sources if isinstance(source, ArraySource)]
    assert [int(count.sum()) for count in counts] == [45_000, 5_000, 10_000]
    assert (counts[0] + counts[1]).tolist() == [5000] * 10
    assert counts[2].tolist() == [1000] * 10
    assert data.num_trial_samples == 2000
