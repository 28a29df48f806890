"""load_model: built-in names and the user's own files; the example files."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.importing import import_object
from tersenet.data import open_data
from tersenet.errors import ModelError, NotFoundError, UnknownNameError
from tersenet.models import load_model

EXAMPLES = Path(__file__).parents[2] / "examples"

USER_FILE = """
from torch import nn

class Net(nn.Module):
    pass

net = Net()
answer = 42

def make():
    return Net()

def needs_width(width):
    return Net()

def makes_text():
    return "a network"
"""


@pytest.fixture(autouse=True)
def _restored_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "user_net.py").write_text(USER_FILE)
    return tmp_path / "user_net.py"


def test_a_built_in_name_is_built_with_the_wanted_classes() -> None:
    assert load_model("digits_cnn", num_classes=3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", ["Net", "make", "net"])
def test_a_class_a_factory_or_a_network_of_a_file_is_used(user_file: Path, name: str) -> None:
    assert type(load_model(f"{user_file}:{name}")).__name__ == "Net"


def test_a_network_of_a_package_is_used() -> None:
    assert isinstance(load_model("torch.nn:Identity"), nn.Identity)


def test_something_that_is_neither_network_nor_factory_is_refused(user_file: Path) -> None:
    with pytest.raises(ModelError, match=r"user_net\.py:answer' is a int"):
        load_model(f"{user_file}:answer")


def test_a_factory_that_needs_arguments_is_refused(user_file: Path) -> None:
    with pytest.raises(ModelError, match=r"failed when called without arguments: TypeError.*'width'"):
        load_model(f"{user_file}:needs_width")


def test_a_factory_that_returns_something_else_is_refused(user_file: Path) -> None:
    with pytest.raises(ModelError, match=r"returned a str. It must return an nn\.Module"):
        load_model(f"{user_file}:makes_text")


def test_a_misspelt_built_in_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'mobilenet_v2'"):
        load_model("mobilenetv2")


def test_a_file_without_a_name_says_what_to_add() -> None:
    with pytest.raises(ModelError, match=r"model='net\.py' .* Add a colon and a name: net\.py:NAME"):
        load_model("net.py")


def test_a_file_that_does_not_exist_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.py does not exist"):
        load_model("nowhere.py:make")


def test_the_two_branch_example_fits_the_digits() -> None:
    model = load_model(f"{EXAMPLES}/two_branch.py:make")
    (inputs,) = open_data("digits").example_inputs(3)
    assert model(inputs).shape == (3, 10)


def test_the_segmentation_example_is_a_usable_data_set() -> None:
    data = open_data(f"{EXAMPLES}/tiny_segmentation.py:data")
    splits = (data.train.source, data.search.source, data.test.source)
    assert [source.num_samples for source in splits] == [1000, 300, 450]
    assert (data.input_shape, data.num_classes) == ((1, 32, 32), None)
    x, targets = next(data.search.source.batches(50))
    assert isinstance(x, Tensor)
    assert set(targets.flatten().tolist()) == {0, 1, 2}
    bright = float(x[:, 0][targets > 0].mean()) - float(x[:, 0][targets == 0].mean())
    assert bright > 0.5  # digits are brighter than the canvas, so there is something to learn


def test_the_metric_of_the_segmentation_example_is_right_on_known_answers() -> None:
    mean_iou = import_object(f"{EXAMPLES}/tiny_segmentation.py:mean_iou", what="metric")
    assert callable(mean_iou)
    targets = torch.tensor([[[0, 0], [1, 2]]])
    given = torch.tensor([[[0, 1], [1, 2]]])

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.one_hot(x.long(), 3).permute(0, 3, 1, 2).float()

    assert mean_iou(Fixed(), [(targets, targets)]) == 1.0
    # background 1 of 2, first label 1 of 2, second label 1 of 1
    assert mean_iou(Fixed(), [(given, targets)]) == pytest.approx((0.5 + 0.5 + 1) / 3)


@pytest.mark.slow
def test_the_segmentation_example_can_be_learnt() -> None:
    example = {
        name: import_object(f"{EXAMPLES}/tiny_segmentation.py:{name}", what="example")
        for name in ("make", "data", "loss", "mean_iou")
    }
    make, data, loss, mean_iou = (example[name] for name in ("make", "data", "loss", "mean_iou"))
    assert callable(make)
    assert callable(data)
    assert callable(loss)
    assert callable(mean_iou)
    train, search, _ = data()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for x, targets in itertools.chain.from_iterable([train] * 2):
        optimizer.zero_grad()
        loss(model(x), targets).backward()
        optimizer.step()
    assert mean_iou(model.eval(), search) > 0.4  # calling everything background gives less than a third
