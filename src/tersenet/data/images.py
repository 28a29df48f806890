"""Image files decoded when they are needed: from a folder, or from an uncompressed tar archive.

Evaluation: short side to ``image_size`` x 256 / 224, then the centre. Training: a random part of random shape, mirrored
every second time (He et al. 2016; Szegedy et al. 2015), the usual choices for ImageNet.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tersenet.data.splits import selected_range
from tersenet.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZE_OVER_CROP = 256 / 224
MIN_AREA, MAX_ASPECT = 0.08, 4 / 3
_NUM_TRIES = 10


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """Where one encoded image lies."""

    name: str
    """For messages and for the fixed order: path below the root of the data set."""

    path: Path
    """The image, or the archive it is a member of."""

    offset: int
    """First byte in ``path``."""

    num_bytes: int

    label: int


class ImageSource:
    """Images that are decoded batch by batch."""

    def __init__(
        self, files: Sequence[ImageFile], *, image_size: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        """Keep the places; nothing is read yet.

        Args:
            files: in the fixed order.
            image_size: height and width of the inputs.
            mean: subtracted per colour, of values in 0..1.
            std: divided by per colour.
        """
        self.files = tuple(files)
        self._image_size = image_size
        self._scale = (1.0 / (255.0 * torch.tensor(std)))[:, None, None]
        self._shift = (-torch.tensor(mean) / torch.tensor(std))[:, None, None]

    @property
    def num_samples(self) -> int:
        """Images of the split."""
        return len(self.files)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk over the samples ``[skip, skip + first)`` once, see ``Source.batches``.

        Raises:
            DataError: an image is damaged or gone; the message names the file.
        """
        order = np.array(selected_range(self.num_samples, skip=skip, first=first), dtype=np.int64)
        random = np.random.default_rng(0 if shuffle_seed is None else shuffle_seed)
        if shuffle_seed is not None:
            random.shuffle(order)
        for start in range(0, len(order), batch_size):
            files = [self.files[position] for position in order[start : start + batch_size]]
            pixels = torch.stack([self._read(file, random if augment else None) for file in files])
            yield torch.mul(pixels, self._scale).add_(self._shift), torch.tensor([file.label for file in files])

    def _read(self, file: ImageFile, random: np.random.Generator | None) -> Tensor:
        """uint8, shape (3, image_size, image_size)."""
        image = decode(file)
        size = self._image_size
        image = centre_crop(image, size) if random is None else random_crop(image, size, random=random)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode(file: ImageFile) -> Image:
    """The whole image in RGB.

    Raises:
        DataError: it is damaged or gone.
        MissingExtraError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("pillow", "data") from error
    try:
        with file.path.open("rb") as stream:
            stream.seek(file.offset)
            raw = stream.read(file.num_bytes)
        with Image.open(io.BytesIO(raw)) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders fail in many ways on damaged files
        raise DataError(
            f"The image {file.name} in {file.path} cannot be read ({error}). Replace or remove it."
        ) from error


def centre_crop(image: Image, size: int) -> Image:
    """Short side to ``size`` x 256 / 224, bilinear, then the ``size`` x ``size`` in the middle."""
    from PIL.Image import Resampling

    short = round(size * RESIZE_OVER_CROP)
    scale = short / min(image.size)
    width, height = (max(short, int(side * scale)) for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def random_crop(image: Image, size: int, *, random: np.random.Generator) -> Image:
    """A part of 8 to 100 % of the area with sides 3:4 to 4:3, scaled to ``size`` x ``size``, mirrored half the time."""
    from PIL.Image import Resampling, Transpose

    width, height = image.size
    box = (0, 0, width, height)
    for _ in range(_NUM_TRIES):
        area = width * height * random.uniform(MIN_AREA, 1.0)
        aspect = math.exp(random.uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
            box = (left, top, left + wide, top + high)
            break
    part = image.resize((size, size), Resampling.BILINEAR, box=box)
    return part.transpose(Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else part
