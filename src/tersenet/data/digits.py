"""The handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, nothing to download.

Small enough for a complete run in a minute; every example of the documentation uses them. Split: a fixed stratified
order, 500 for test, 297 for search, 1,000 for training.
"""

from __future__ import annotations

import torch

from tersenet.data.arrays import ArraySource
from tersenet.data.augment import Augmentation
from tersenet.data.checks import content_hash, stratified_order
from tersenet.data.splits import Data, SearchSplit, TestSplit, TrainSplit
from tersenet.errors import MissingExtraError

NUM_TEST, NUM_SEARCH = 500, 297
MEAN, STD = (0.305,), (0.376,)
"""Of all pixels, scaled to 0..1."""


def digits() -> Data:
    """The 8x8 digits, ten classes, inputs of shape (1, 8, 8).

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data") from error
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16.0
    labels = torch.tensor(found.target, dtype=torch.int64)
    order = stratified_order(labels.tolist(), [f"digits/{position}" for position in range(len(labels))])
    rows = torch.tensor(order)
    parts = (rows[NUM_TEST + NUM_SEARCH :], rows[NUM_TEST : NUM_TEST + NUM_SEARCH], rows[:NUM_TEST])
    train, search, test = (
        ArraySource(images[part], labels[part], mean=MEAN, std=STD, augment=Augmentation(padding=1, flip=False))
        for part in parts
    )
    return Data(
        name="digits",
        train=TrainSplit(train),
        search=SearchSplit(search),
        test=TestSplit(test),
        num_classes=10,
        input_shape=(1, 8, 8),
        content_hash=content_hash([images, labels, rows]),
    )
