"""What several parts' tests share."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet import data, models
from tersenet.data import Data
from tersenet.train import TrainConfig, fit

pytest_plugins = ("durable_fixtures",)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that may download torchvision run only if they are asked for: ``-m torchvision``."""
    if "torchvision" in config.getoption("markexpr"):
        return
    kept = [item for item in items if item.get_closest_marker("torchvision") is None]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order() -> None:
    """Tests that draw from torch's own generator must not depend on which tests ran before."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with cifar10/, mnist/, weights/ and imagenet-sample/."""
    folder = os.environ.get("TERSENET_DATA")
    if not folder:
        pytest.skip("TERSENET_DATA is not set: it names the folder with cifar10/, mnist/ and weights/")
    return Path(folder)


@pytest.fixture(scope="session")
def digits() -> Data:
    """The embedded data set."""
    return data.digits()


@pytest.fixture(scope="session")
def _trained_digits_cnn(digits: Data) -> nn.Module:
    torch.manual_seed(0)
    model = models.build("digits_cnn")
    fit(model, digits.train, digits.search, TrainConfig(epochs=4, learning_rate=0.1, batch_size=64, seed=0))
    return model.eval()


@pytest.fixture
def digits_cnn(_trained_digits_cnn: nn.Module) -> nn.Module:
    """A small network that knows the digits; a fresh copy per test."""
    return copy.deepcopy(_trained_digits_cnn)
