"""Random crop, horizontal flip and Cutout of whole batches.

The usual augmentation of small images: pad by zeros before normalising (so the border is a black pixel, not a mean
one), cut a window of the old size at a random place, mirror every second image, and, for longer trainings, black out a
square. All images of a batch at once: a window is one row of a strided view, so that nothing is looped over.

Source: DeVries and Taylor 2017 (Cutout), arXiv:1708.04552, section 3; a square's centre may be any pixel, so that part
of it may lie outside. Differs: it is black, as the border of a crop is, where theirs is the mean colour.

Axes: N images, C colours, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How the training images of a data set are distorted."""

    padding: int
    """Pixels of value 0 around the image before a window of its old size is cut out; 0 = no crop."""

    flip: bool
    """Whether every image is mirrored left to right with probability one half."""

    cutout: int = 0
    """Side, in pixels, of a square of every image that is set to 0; 0 = none."""

    def apply(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Distort each image on its own.

        Args:
            images: raw pixels, shape (N, C, H, W), any type.
            generator: source of all randomness.

        Returns:
            A new tensor of the same shape and type.
        """
        if self.padding:
            images = random_crop(images, self.padding, generator=generator)
        if self.flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        if self.cutout:
            images = cut_out(images, self.cutout, generator=generator)
        return images


def random_crop(images: Tensor, padding: int, *, generator: torch.Generator) -> Tensor:
    """Pad by zeros on all four sides and cut a window of the old size at a random place of each image.

    Args:
        images: shape (N, C, H, W), any type.
        padding: pixels added on each side, at least 1.
        generator: source of the places.

    Returns:
        Shape (N, C, H, W).
    """
    num_images, _, height, width = images.shape
    places = torch.randint(2 * padding + 1, (2, num_images), generator=generator)
    padded = F.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, top, left, H, W), a view
    return windows[torch.arange(num_images), :, places[0], places[1]]


def cut_out(images: Tensor, side: int, *, generator: torch.Generator) -> Tensor:
    """Set a square of each image to 0, the centre of which is a random pixel.

    Args:
        images: shape (N, C, H, W), any type.
        side: of the square, in pixels, at least 1.
        generator: source of the places.

    Returns:
        Shape (N, C, H, W).
    """
    num_images, _, height, width = images.shape
    rows_NH = _within(height, side, num_images, generator=generator)
    columns_NW = _within(width, side, num_images, generator=generator)
    return images.masked_fill(rows_NH[:, None, :, None] & columns_NW[:, None, None, :], 0)


def _within(length: int, side: int, num_images: int, *, generator: torch.Generator) -> Tensor:
    """Which pixels along one axis a square covers, shape (N, length)."""
    first = torch.randint(length, (num_images, 1), generator=generator) - side // 2
    place = torch.arange(length)
    return (place >= first) & (place < first + side)
