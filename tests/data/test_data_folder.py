"""Folders and archives of images."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tersenet.data import ImageSource, SearchSplit, TestSplit, TrainSplit, image_folder
from tersenet.data.images import centre_crop, random_crop
from tersenet.errors import DataError, MissingExtraError, NotFoundError


def save(path: Path, colour: tuple[int, int, int] = (0, 0, 0), size: tuple[int, int] = (20, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def fill(root: Path, num_images: int, classes: str = "ab") -> None:
    for name in classes:
        for number in range(num_images):
            save(root / name / f"{name}{number}.png")


def names(split: TrainSplit | SearchSplit | TestSplit) -> list[str]:
    assert isinstance(split.source, ImageSource)
    return [file.name for file in split.source.files]


def archive_of(root: Path, archive: Path, mode: str = "w", prefix: str = "") -> Path:
    with tarfile.open(archive, mode) as tar:  # type: ignore[call-overload]
        for path in sorted(root.rglob("*.png")):
            tar.add(path, arcname=prefix + path.relative_to(root).as_posix())
    return archive


def test_without_split_folders_a_fixed_stratified_part_is_held_back(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    data = image_folder(tmp_path, image_size=8)
    parts = [names(split) for split in (data.train, data.search, data.test)]
    assert [len(part) for part in parts] == [29, 5, 6]  # 15 % of 40, then 15 % of 34
    assert sorted(name for part in parts for name in part) == sorted(f"{c}/{c}{n}.png" for c in "ab" for n in range(20))
    assert sum(name.startswith("a") for name in parts[2]) == 3
    again = image_folder(tmp_path, image_size=8)
    assert [names(split) for split in (again.train, again.search, again.test)] == parts
    assert data.num_classes == 2


def test_split_folders_are_used(tmp_path: Path) -> None:
    for split, num_images in (("train", 3), ("search", 2), ("test", 1)):
        fill(tmp_path / split, num_images)
    data = image_folder(tmp_path, image_size=8)
    for split, used in (("train", data.train), ("search", data.search), ("test", data.test)):
        assert {name.split("/")[0] for name in names(used)} == {split}


def test_val_is_for_search_beside_test_and_for_test_without_it(tmp_path: Path) -> None:
    fill(tmp_path / "train", 20)
    fill(tmp_path / "val", 3)
    alone = image_folder(tmp_path, image_size=8)
    assert {name.split("/")[0] for name in names(alone.test)} == {"val"}
    assert {name.split("/")[0] for name in names(alone.search)} == {"train"}
    assert not set(names(alone.search)) & set(names(alone.train))
    fill(tmp_path / "test", 2)
    beside = image_folder(tmp_path, image_size=8)
    assert {name.split("/")[0] for name in names(beside.search)} == {"val"}
    assert len(names(beside.train)) == 40


def test_classes_are_numbered_by_the_sorted_names_of_all_splits(tmp_path: Path) -> None:
    fill(tmp_path / "train", 3, classes="bc")
    fill(tmp_path / "search", 3, classes="ac")
    fill(tmp_path / "test", 1, classes="c")
    data = image_folder(tmp_path, image_size=8)
    for split in (data.train, data.search, data.test):
        assert isinstance(split.source, ImageSource)
        assert all("abc".index(file.name.split("/")[1]) == file.label for file in split.source.files)
    assert data.num_classes == 3


def test_with_one_image_per_class_every_fourth_goes_to_search_and_to_test(tmp_path: Path) -> None:
    for number in range(16):
        save(tmp_path / f"c{number:02}" / "only.png")
    data = image_folder(tmp_path, image_size=8)
    found = [sorted(int(name[1:3]) for name in names(split)) for split in (data.search, data.test, data.train)]
    assert found == [[0, 4, 8, 12], [1, 5, 9, 13], [2, 3, 6, 7, 10, 11, 14, 15]]
    assert data.num_classes == 16


@pytest.mark.parametrize("prefix", ["", "./", "wrapped/"])
def test_an_archive_gives_what_its_folder_gives(tmp_path: Path, prefix: str) -> None:
    root = tmp_path / "images"
    for number, split in enumerate(("train", "search", "test")):
        for position, name in enumerate("ab"):
            save(root / split / name / "0.png", (number * 50, position * 100, 7))
    from_folder = image_folder(root, image_size=8)
    from_archive = image_folder(archive_of(root, tmp_path / "images.tar", prefix=prefix), image_size=8)
    for one, other in ((from_folder.search, from_archive.search), (from_folder.test, from_archive.test)):
        for (x, labels), (y, other_labels) in zip(one.source.batches(2), other.source.batches(2), strict=True):
            assert isinstance(x, torch.Tensor)
            assert isinstance(y, torch.Tensor)
            assert torch.equal(x, y)
            assert torch.equal(labels, other_labels)
    assert from_folder.content_hash == from_archive.content_hash


def test_pixels_are_normalised_and_grey_images_become_coloured(tmp_path: Path) -> None:
    fill(tmp_path, 20, classes="a")
    (tmp_path / "b").mkdir()
    for number in range(20):
        Image.new("L", (20, 20), 255).save(tmp_path / "b" / f"{number}.png")
    data = image_folder(tmp_path, image_size=8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.5))
    for x, labels in data.test.source.batches(4):
        assert isinstance(x, torch.Tensor)
        assert x.shape[1:] == (3, 8, 8)
        for image, label in zip(x, labels, strict=True):
            white = torch.tensor([1.0, 1.5, 2.0]) if label == 1 else torch.tensor([-1.0, -0.5, 0.0])
            torch.testing.assert_close(image, white[:, None, None].expand(3, 8, 8))


def test_the_centre_is_cut_after_the_short_side_is_scaled() -> None:
    stripes = np.zeros((256, 512, 3), dtype=np.uint8)
    stripes[:, np.arange(512) >= 256] = 200
    crop = np.array(centre_crop(Image.fromarray(stripes), 224))
    np.testing.assert_array_equal(crop, stripes[16:240, 144:368])  # short side is 256 already: nothing is scaled
    assert centre_crop(Image.new("RGB", (100, 37)), 64).size == (64, 64)


def test_a_random_crop_depends_on_the_seed_alone_and_mirrors_half_the_time() -> None:
    gradient = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (64, 64, 3))
    image = Image.fromarray(np.ascontiguousarray(gradient))

    def crops(seed: int) -> list[bytes]:
        random = np.random.default_rng(seed)
        return [random_crop(image, 16, random=random).tobytes() for _ in range(60)]

    assert crops(0) == crops(0) != crops(1)
    rows = [np.frombuffer(crop, dtype=np.uint8)[0:48:3].astype(int) for crop in crops(0)]
    mirrored = sum(row[0] > row[-1] for row in rows)
    assert 15 < mirrored < 45  # 30 expected, standard deviation 4


def test_training_batches_are_shuffled_and_distorted_by_the_seed(tmp_path: Path) -> None:
    for number in range(30):
        save(tmp_path / "ab"[number % 2] / f"{number}.png", (number * 8, 0, 0))
    source = image_folder(tmp_path, image_size=8).train.source
    first, again, other = (
        torch.cat([torch.as_tensor(x) for x, _ in source.batches(5, shuffle_seed=seed, augment=True)])
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(list(source.batches(5, skip=3, first=7))) == 2


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    data = image_folder(tmp_path, image_size=8)
    victim = names(data.search)[1]
    raw = (tmp_path / victim).read_bytes()
    (tmp_path / victim).write_bytes(raw[:40])
    with pytest.raises(DataError, match=f"The image {victim} in .* cannot be read"):
        list(data.search.source.batches(8))


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        image_folder(tmp_path / "nowhere")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"has no images.*one sub-folder per class"):
        image_folder(tmp_path)


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    (tmp_path / "aa_empty").mkdir()
    with pytest.raises(DataError, match="aa_empty has no images, which would shift the class numbers"):
        image_folder(tmp_path)


def test_an_image_outside_the_class_folders_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    save(tmp_path / "lost.png")
    with pytest.raises(DataError, match=r"lost\.png .* lies in no class folder"):
        image_folder(tmp_path)


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, 2)
    with pytest.raises(DataError, match=r"too few images to split .* Give at least 20"):
        image_folder(tmp_path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "images", 3)
    archive = archive_of(tmp_path / "images", tmp_path / "images.tar.gz", mode="w:gz")
    with pytest.raises(DataError, match=r"no uncompressed tar archive.*Unpack it"):
        image_folder(archive)


def test_an_image_size_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_size=0"):
        image_folder(tmp_path, image_size=0)


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 20)
    data = image_folder(tmp_path, image_size=8)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pillow.*pip install 'tersenet\[data\]'"):
        next(data.search.source.batches(2))


def test_the_imagenet_sample_is_numbered_as_usual() -> None:
    root = os.environ.get("TERSENET_DATA")
    if root is None:
        pytest.skip("TERSENET_DATA does not name the folder of the data sets")
    archive = Path(root) / "imagenet-sample" / "imagenet-sample-1000.tar"
    data = image_folder(archive)
    sources = (data.train.source, data.search.source, data.test.source)
    assert [source.num_samples for source in sources] == [500, 250, 250]
    table = (Path(root) / "imagenet-sample" / "labels.csv").read_text().splitlines()[1:]
    known = {line.split(",")[1]: int(line.split(",")[0]) for line in table}
    for source in sources:
        assert isinstance(source, ImageSource)
        assert all(known[file.name.split("/")[0]] == file.label for file in source.files)
    x, labels = next(data.test.source.batches(1))
    test = data.test.source
    assert isinstance(test, ImageSource)
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(test.files[0].name)
        assert stream is not None
        pixels = np.array(Image.open(io.BytesIO(stream.read())).convert("RGB"), dtype=np.float64)[16:240, 16:240] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert isinstance(x, torch.Tensor)
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert labels.tolist() == [test.files[0].label]
