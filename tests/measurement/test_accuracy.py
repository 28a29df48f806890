"""Accuracy and the user's own metric, against numbers counted by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.data.arrays import ArraySource
from tersenet.data.batches import BatchSource
from tersenet.data.splits import Inputs
from tersenet.errors import DataError, ModelError, SearchError, UnknownNameError
from tersenet.measurement import Task, accuracy, accuracy_of, measure_quality, score


class Echo(nn.Module):
    """Gives its inputs back; has a parameter and a mode, so that what is done to them can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        return x


def source_of(logits: list[list[float]], targets: list[int]) -> BatchSource:
    return BatchSource([(torch.tensor(logits), torch.tensor(targets))])


SEVEN = [
    [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # class 0 first, class 1 last
    [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
]


def test_top1_and_top5_are_as_counted_by_hand() -> None:
    # order of the classes: 0 6 5 4 3 | 2 1; targets 0 (first), 3 (fifth), 2 (sixth), 1 (last)
    found = accuracy(Echo(), source_of(SEVEN, [0, 3, 2, 1]))
    assert found.top1 == 25.0
    assert found.top5 == 50.0
    assert found.num_samples == 4
    np.testing.assert_array_equal(found.correct, [True, False, False, False])


def test_top5_is_not_given_with_fewer_than_six_classes() -> None:
    found = accuracy(Echo(), source_of([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [2, 0]))
    assert found.top5 is None
    assert found.top1 == 50.0


def test_a_network_with_constant_outputs_is_not_right_everywhere() -> None:
    found = accuracy(Echo(), source_of([[0.0, 0.0]] * 4, [0, 1, 1, 1]))
    assert found.top1 == 25.0


def test_outputs_that_are_not_numbers_count_as_wrong_and_are_counted() -> None:
    class Root(Echo):
        def forward(self, x: Tensor) -> Any:
            return x.sqrt()

    # torch.argmax alone would call the root of -1 the largest output of the second sample, and its class 1 right
    found = accuracy(Root(), source_of([[1.0, 0.0], [0.0, -1.0], [0.0, 1.0]], [0, 1, 1]))
    np.testing.assert_array_equal(found.correct, [True, False, True])
    assert found.num_not_finite == 1


def test_skip_and_first_choose_the_samples() -> None:
    found = accuracy(Echo(), source_of(SEVEN, [0, 0, 1, 1]), skip=1, first=2)
    np.testing.assert_array_equal(found.correct, [True, False])


def test_a_plain_function_with_numpy_outputs_is_measured_the_same() -> None:
    def predict(inputs: Inputs) -> np.ndarray[Any, np.dtype[np.float32]]:
        assert isinstance(inputs, Tensor)
        return inputs.numpy()

    found = accuracy_of(predict, source_of(SEVEN, [0, 3, 2, 1]))
    assert (found.top1, found.top5) == (25.0, 50.0)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        accuracy(Echo(), source_of(SEVEN, [0, 0, 0, 0]), skip=4)


class Pair(Echo):
    def forward(self, x: Tensor) -> Any:
        return x, x


class Flat(Echo):
    def forward(self, x: Tensor) -> Any:
        return x[:, 0]


@pytest.mark.parametrize(("model", "what"), [(Pair(), "tuple of 2 outputs"), (Flat(), r"shape \(4,\)")])
def test_outputs_that_are_no_logits_are_refused_with_the_way_out(model: nn.Module, what: str) -> None:
    with pytest.raises(ModelError, match=f"{what}.*--metric"):
        accuracy(model, source_of(SEVEN, [0, 0, 0, 0]))


@pytest.mark.parametrize("wrong", [7, -1])
def test_targets_outside_the_classes_are_refused(wrong: int) -> None:
    with pytest.raises(DataError, match="7 classes"):
        accuracy_of(lambda x: x, Unchecked(wrong))


class Unchecked:
    """A source that checks nothing."""

    num_samples = 4

    def __init__(self, wrong: int) -> None:
        self._wrong = wrong

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Any:
        yield torch.tensor(SEVEN), torch.tensor([0, 0, 0, self._wrong])


class Largest(nn.Module):
    """The mean of every sample as logits of two classes; remembers how many samples came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, len(x))
        means = x.mean(dim=(1, 2, 3))
        return torch.stack([means, -means], dim=1)


@pytest.mark.parametrize(("side", "num_images", "most"), [(32, 300, 256), (224, 30, 27), (700, 5, 2)])
def test_large_images_are_measured_in_smaller_passes(side: int, num_images: int, most: int) -> None:
    images = torch.zeros(num_images, 3, side, side, dtype=torch.uint8)
    images[1::2] = 255
    targets = torch.arange(num_images) % 2  # the mean is 1 at the odd ones, which is class 0
    targets[0] = 1
    source = ArraySource(images, targets, mean=[0.5] * 3, std=[0.5] * 3, augment=None)
    model = Largest()
    assert accuracy(model, source).top1 == pytest.approx(100.0 / num_images)
    assert model.most == most


def test_a_model_that_fails_names_the_shape_and_chains_its_error() -> None:
    with pytest.raises(ModelError, match=r"\(4, 7\)") as caught:
        accuracy(nn.Linear(3, 2), source_of(SEVEN, [0, 0, 0, 0]))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(UnknownNameError, match="'tpu'"):
        accuracy(Echo(), source_of(SEVEN, [0, 0, 0, 0]), device="tpu")


def test_the_model_keeps_its_modes_and_gradients() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(7, 7))
    model[1].eval()
    before = [module.training for module in model.modules()]
    accuracy(model, source_of(SEVEN, [0, 1, 2, 3]))
    assert [module.training for module in model.modules()] == before == [True, True, False, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_dropout_is_off_while_measuring() -> None:
    model = nn.Sequential(Echo(), nn.Dropout(0.9)).train()
    assert accuracy(model, source_of(SEVEN, [0, 0, 0, 0])).top1 == 100.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_format_gets_inputs_of_that_format(dtype: torch.dtype) -> None:
    model = nn.Linear(7, 7, bias=False).to(dtype)
    nn.init.eye_(model.weight)
    assert accuracy(model, source_of(SEVEN, [0, 3, 2, 1])).top1 == 25.0


class Viewing(nn.Module):
    """Flattens a convolution's output with ``view``, which channels_last layout does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.layouts: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.layouts.append(x.is_contiguous())
        x = self.conv(x)
        return x.view(x.shape[0], -1)


def test_a_network_that_views_its_activations_is_measured_in_the_usual_layout() -> None:
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    model = Viewing()
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    assert accuracy(model, BatchSource([(images, targets)])).top1 == 100.0
    assert False in model.layouts  # channels_last was tried
    assert model.layouts[-1]


def test_several_inputs_are_handed_over_in_their_order() -> None:
    class Difference(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    first, second = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 0.0]])
    source = BatchSource([((first, second), torch.tensor([0]))])
    assert accuracy(Difference(), source).top1 == 100.0


def test_the_users_metric_sees_an_evaluating_model_and_all_batches_twice() -> None:
    calls: list[tuple[bool, bool, int]] = []

    def largest(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        num_samples = sum(len(x) for x, _ in batches)
        calls.append((model.training, torch.is_grad_enabled(), num_samples))
        return max(float(model(x).max()) for x, _ in batches)

    model = Echo().train()
    assert score(model, source_of(SEVEN, [0, 0, 0, 0]), largest) == 9.0
    assert calls == [(False, False, 4)]
    assert model.training


@pytest.mark.parametrize(
    ("result", "message"),
    [(float("nan"), "returned nan"), (float("inf"), "finite"), ("good", "'good'"), (None, "NoneType")],
)
def test_a_metric_without_a_finite_number_is_named(result: Any, message: str) -> None:
    def my_metric(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> Any:
        return result

    with pytest.raises(SearchError, match=f"my_metric.*{message}"):
        score(Echo(), source_of(SEVEN, [0, 0, 0, 0]), my_metric)


def test_an_error_inside_the_metric_is_chained() -> None:
    def broken(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        raise ZeroDivisionError("no boxes")

    with pytest.raises(SearchError, match=r"broken failed with ZeroDivisionError: no boxes") as caught:
        score(Echo(), source_of(SEVEN, [0, 0, 0, 0]), broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_metrics_hold_accuracy_or_the_users_score_and_never_both() -> None:
    source = source_of(SEVEN, [0, 3, 2, 1])
    plain = measure_quality(Echo(), source, Task(), split="search")
    assert (plain.top1, plain.top5, plain.score, plain.quality) == (25.0, 50.0, None, 25.0)
    own = measure_quality(Echo(), source, Task(metric=lambda m, b: 0.5, metric_name="IoU"), split="test", first=3)
    assert (own.top1, own.score, own.score_name, own.num_samples, own.split) == (None, 0.5, "IoU", 3, "test")
