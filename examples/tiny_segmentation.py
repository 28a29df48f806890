"""A task of your own that is not classification: segmentation with its own data, loss and metric.

A handwritten digit lies somewhere on a noisy canvas; every pixel is background (0), a digit from 0 to 4 (1) or a
digit from 5 to 9 (2). Quality is the mean intersection over union.
"""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

CANVAS, DIGIT, NUM_LABELS, BATCH_SIZE = 32, 16, 3, 50

Batch = tuple[Tensor, Tensor]


class SmallUNet(nn.Module):
    """Two steps down, two steps up; the encoder's maps are concatenated on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = _conv(1, 16)
        self.down2 = _conv(16, 32)
        self.bottom = _conv(32, 48)
        self.up2 = _conv(48 + 32, 32)
        self.up1 = _conv(32 + 16, 16)
        self.head = nn.Conv2d(16, NUM_LABELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 32, 32) to one logit per label and pixel, (N, 3, 32, 32)."""
        fine = self.down1(x)
        middle = self.down2(F.max_pool2d(fine, 2))
        coarse = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up2(torch.cat([F.interpolate(coarse, scale_factor=2), middle], dim=1))
        fine = self.up1(torch.cat([F.interpolate(middle, scale_factor=2), fine], dim=1))
        return self.head(fine)


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def make() -> nn.Module:
    """The network, untrained."""
    return SmallUNet()


def data() -> tuple[list[Batch], list[Batch], list[Batch]]:
    """Batches for training (1,000 images), search (300) and test (450), always the same.

    The images of one split use digits that no other split uses.
    """
    images, targets = _draw()
    batches = [
        (images[start : start + BATCH_SIZE], targets[start : start + BATCH_SIZE])
        for start in range(0, len(images), BATCH_SIZE)
    ]
    return batches[:20], batches[20:26], batches[26:35]


def _draw() -> Batch:
    digits = load_digits()
    random = np.random.default_rng(0)
    num_images = len(digits.images)
    images = random.normal(0.0, 0.25, (num_images, CANVAS, CANVAS)).astype(np.float32)
    targets = np.zeros((num_images, CANVAS, CANVAS), dtype=np.int64)
    for image, target, digit, label in zip(images, targets, digits.images, digits.target, strict=True):
        large = np.kron(digit / 16.0, np.ones((2, 2)))  # 8x8 to 16x16
        top, left = random.integers(0, CANVAS - DIGIT + 1, 2)
        window = (slice(top, top + DIGIT), slice(left, left + DIGIT))
        image[window] += large
        target[window][large > 0.25] = 1 if label < 5 else 2
    return torch.from_numpy(images)[:, None], torch.from_numpy(targets)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over all pixels, digits counted three times, since most of the canvas is empty."""
    return F.cross_entropy(outputs, targets, weight=outputs.new_tensor([1.0, 3.0, 3.0]))


def mean_iou(model: nn.Module, batches: list[Batch]) -> float:
    """Mean over the labels of (pixels rightly given the label) / (pixels that have it or were given it), 0 to 1."""
    common, either = torch.zeros(NUM_LABELS), torch.zeros(NUM_LABELS)
    with torch.inference_mode():
        for images, targets in batches:
            found = model(images).argmax(dim=1)
            for label in range(NUM_LABELS):
                common[label] += int(((found == label) & (targets == label)).sum())
                either[label] += int(((found == label) | (targets == label)).sum())
    return float((common / either.clamp(min=1)).mean())
