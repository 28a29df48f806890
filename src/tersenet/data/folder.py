"""Image classification data as folders: ``PATH/<class>/<image>``, or ``PATH/train/<class>/<image>`` and so on.

Classes are numbered by the sorted names of all class folders. Split folders are used where they are there; without
them, or without a ``search`` or ``val`` beside ``test``, a fixed stratified part is taken. A tar archive of the same
layout is read in place.
"""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tersenet.data.checks import content_hash, stratified_order
from tersenet.data.images import ImageFile, ImageSource
from tersenet.data.splits import Data, SearchSplit, TestSplit, TrainSplit
from tersenet.errors import DataError, NotFoundError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif")
SPLITS = ("train", "search", "val", "test")
HELD_BACK = 0.15
"""Share of the images that each of search and test gets where the data set has no such folder."""


def image_folder(
    path: str | Path,
    *,
    image_size: int = 224,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Data:
    """Images in one folder per class.

    With one image per class, every fourth image goes to search and every fourth to test.

    Args:
        path: the folder, or an uncompressed tar archive of it.
        image_size: height and width of the inputs, (3, image_size, image_size).
        mean: subtracted per colour, of values in 0..1.
        std: divided by per colour.

    Raises:
        NotFoundError: nothing is there.
        DataError: there are no images, too few to split, or the archive is compressed or damaged. An image that is
            damaged is an error when it is read.
    """
    root = Path(path).expanduser()
    if image_size < 1:
        raise DataError(f"image_size={image_size} must be at least 1, for example 224.")
    if not root.exists():
        raise NotFoundError(f"folder: {root} does not exist. Give a folder with one sub-folder of images per class.")
    found = _list_archive(root) if root.is_file() else _list_folder(root)
    parts = _by_split([(split, file) for split, file in _labelled(found, root)], root)
    train, search, test = (ImageSource(files, image_size=image_size, mean=mean, std=std) for files in parts)
    names = sorted({PurePosixPath(file.name).parent.name for files in parts for file in files})
    return Data(
        name=f"folder:{root.name}",
        train=TrainSplit(train),
        search=SearchSplit(search),
        test=TestSplit(test),
        num_classes=len(names),
        input_shape=(3, image_size, image_size),
        # Names and sizes: reading every byte of a large data set would take longer than a search.
        content_hash=content_hash(f"{part} {f.name} {f.num_bytes}" for part, fs in enumerate(parts) for f in fs),
    )


def _list_folder(root: Path) -> list[ImageFile]:
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    _check_class_folders(root, {path.parent.name for path in paths})
    return [
        ImageFile(name=path.relative_to(root).as_posix(), path=path, offset=0, num_bytes=path.stat().st_size, label=-1)
        for path in paths
    ]


def _check_class_folders(root: Path, classes: set[str]) -> None:
    for folder in sorted(path for path in root.rglob("[!._]*") if path.is_dir()):
        if classes and folder.name not in classes and not any(child.is_dir() for child in folder.iterdir()):
            raise DataError(
                f"folder: {folder} has no images, which would shift the class numbers. Remove it or fill it."
            )


def _list_archive(root: Path) -> list[ImageFile]:
    try:
        with tarfile.open(root, "r:") as tar:
            members = [member for member in tar if member.isfile()]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"folder: {root} is no uncompressed tar archive, or it is damaged ({error}). Unpack it and give the folder."
        ) from error
    files = [
        ImageFile(
            name=name,
            path=root,
            offset=member.offset_data,
            num_bytes=member.size,
            label=-1,
        )
        for member, name in zip(members, _below_common_folder([member.name for member in members]), strict=True)
        if PurePosixPath(name).suffix.lower() in SUFFIXES
    ]
    return sorted(files, key=lambda file: file.name)


def _below_common_folder(names: list[str]) -> list[str]:
    """Without the one folder that an archive is often wrapped in."""
    split_names = [PurePosixPath(name).parts for name in names]
    if len({parts[0] for parts in split_names}) == 1 and min(map(len, split_names)) > 2:
        split_names = [parts[1:] for parts in split_names]
    return ["/".join(parts) for parts in split_names]


def _labelled(files: list[ImageFile], root: Path) -> list[tuple[str, ImageFile]]:
    """Each image with its split (empty if none) and its class number; images outside class folders are an error."""
    if not files:
        raise DataError(f"folder: {root} has no images ({', '.join(SUFFIXES)}). Give one sub-folder per class.")
    has_splits = any(file.name.startswith("train/") and file.name.count("/") >= 2 for file in files)
    placed = []
    for file in files:
        folders = PurePosixPath(file.name).parts[:-1]
        split = folders[0] if has_splits and folders and folders[0] in SPLITS else ""
        class_folders = folders[1:] if split else folders
        if not class_folders or (has_splits and not split):
            raise DataError(
                f"folder: the image {file.name} in {root} lies in no class folder. "
                "Lay images out as CLASS/IMAGE or train/CLASS/IMAGE."
            )
        placed.append((split, class_folders[-1], file))
    numbers = {name: number for number, name in enumerate(sorted({name for _, name, _ in placed}))}
    return [
        (split, ImageFile(name=f.name, path=f.path, offset=f.offset, num_bytes=f.num_bytes, label=numbers[name]))
        for split, name, f in placed
    ]


def _by_split(placed: list[tuple[str, ImageFile]], root: Path) -> tuple[list[ImageFile], ...]:
    """Images of train, search and test."""
    groups = {split: _mixed([file for name, file in placed if name == split]) for split in ("", *SPLITS)}
    train, search = groups[""] + groups["train"], groups["search"]
    # A published validation set is what papers report on: it is the test split where there is no other.
    test = groups["test"] or groups["val"]
    if groups["test"] and not search:
        search = groups["val"]
    if not search and not test and max(Counter(file.label for file in train).values()) == 1:
        train.sort(key=lambda file: file.name)
        search, test = _mixed(train[0::4]), _mixed(train[1::4])
        train = [file for position, file in enumerate(train) if position % 4 > 1]
    if not test:
        train, test = _hold_back(train)
    if not search:
        train, search = _hold_back(train)
    if not train or len(search) < 2 or not test:
        raise DataError(
            f"folder: {root} has too few images to split ({len(train)} train, {len(search)} search, {len(test)} test). "
            "Give at least 20, or folders train, search and test."
        )
    return train, search, test


def _hold_back(files: list[ImageFile]) -> tuple[list[ImageFile], list[ImageFile]]:
    num_held = round(len(files) * HELD_BACK)
    return files[num_held:], files[:num_held]


def _mixed(files: list[ImageFile]) -> list[ImageFile]:
    """In the fixed stratified order, so that any first part holds all classes alike."""
    order = stratified_order([file.label for file in files], [file.name for file in files])
    return [files[position] for position in order]
