"""BatchSource and from_batches: the user's own batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tersenet.data import BatchSource, from_batches
from tersenet.data.batches import cut_targets
from tersenet.errors import DataError

Pair = tuple[Tensor, Tensor]


def batches_of(*sizes: int) -> list[Pair]:
    """Sample number n has the input [n, n] and the target n."""
    numbers = torch.split(torch.arange(sum(sizes)), list(sizes))
    return [(n.float()[:, None].expand(len(n), 2), n) for n in numbers]


def loader_of(num_samples: int, **options: Any) -> DataLoader[tuple[Tensor, ...]]:
    numbers = torch.arange(num_samples)
    return DataLoader(TensorDataset(numbers.float()[:, None], numbers), **options)


def targets_of(source: BatchSource, **options: Any) -> list[int]:
    return [int(t) for _, targets in source.batches(4, **options) for t in targets]


class Walked:
    """A re-iterable that counts how many batches were taken."""

    def __init__(self, batches: list[Pair]) -> None:
        self.batches = batches
        self.num_taken = 0

    def __iter__(self) -> Iterator[Pair]:
        for batch in self.batches:
            self.num_taken += 1
            yield batch


def test_samples_are_counted_over_batches_of_any_size() -> None:
    assert BatchSource(batches_of(3, 5, 1)).num_samples == 9


@pytest.mark.parametrize(
    ("skip", "first", "expected"),
    [(0, None, [*range(9)]), (2, 3, [2, 3, 4]), (3, 5, [3, 4, 5, 6, 7]), (8, 9, [8]), (0, 3, [0, 1, 2]), (9, 1, [])],
)
def test_batches_are_cut_at_the_ends_of_the_range(skip: int, first: int | None, expected: list[int]) -> None:
    source = BatchSource(batches_of(3, 5, 1))
    assert targets_of(source, skip=skip, first=first) == expected
    inputs = [float(x) for batch, _ in source.batches(4, skip=skip, first=first) for x in batch[:, 0]]  # type: ignore[call-overload]
    assert inputs == expected


def test_nothing_is_read_beyond_the_range() -> None:
    walked = Walked(batches_of(2, 2, 2, 2))
    source = BatchSource(walked)
    walked.num_taken = 0
    targets_of(source, first=3)
    assert walked.num_taken <= 3


def test_the_batches_of_a_list_are_shuffled_by_the_seed() -> None:
    source = BatchSource(batches_of(*[1] * 20))
    first, again, other = (targets_of(source, shuffle_seed=seed, skip=5, first=10) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == list(range(5, 15))


def test_a_loader_is_counted_without_being_read() -> None:
    assert BatchSource(loader_of(10, batch_size=4)).num_samples == 10
    assert BatchSource(loader_of(10, batch_size=4, drop_last=True)).num_samples == 8


def test_half_and_double_precision_become_fp32_and_integers_stay() -> None:
    inputs = (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    found, _ = next(BatchSource([(inputs, torch.zeros(2))]).batches(2))
    assert isinstance(found, tuple)
    assert [x.dtype for x in found] == [torch.float32, torch.int64]


def test_several_inputs_are_cut_together() -> None:
    inputs = [torch.arange(4.0), torch.arange(4.0) * 10]
    found, _ = next(BatchSource([(inputs, torch.zeros(4))]).batches(2, skip=1, first=2))
    assert [x.tolist() for x in found] == [[1.0, 2.0], [10.0, 20.0]]


def test_targets_of_every_usual_form_are_cut() -> None:
    rows = slice(1, 3)
    assert cut_targets(torch.arange(3), rows, 3).tolist() == [1, 2]
    assert cut_targets(["a", "b", "c"], rows, 3) == ["b", "c"]
    assert cut_targets([{"boxes": 0}, {"boxes": 1}, {"boxes": 2}], rows, 3) == [{"boxes": 1}, {"boxes": 2}]
    maps = cut_targets({"mask": torch.arange(3), "depth": (torch.arange(3) + 5,)}, rows, 3)
    assert maps["mask"].tolist() == [1, 2]
    assert maps["depth"][0].tolist() == [6, 7]
    assert cut_targets(None, rows, 3) is None


def test_targets_that_cannot_be_cut_say_so() -> None:
    with pytest.raises(DataError, match="a batch of 3 samples are a float, which cannot be cut"):
        cut_targets(1.5, slice(0, 1), 3)


def test_a_generator_is_refused() -> None:
    with pytest.raises(DataError, match="train is a generator, which can be walked over only once"):
        BatchSource((batch for batch in batches_of(2)), where="train")


def test_something_that_is_no_iterable_is_refused() -> None:
    with pytest.raises(DataError, match="train is a int"):
        BatchSource(5, where="train")  # type: ignore[arg-type]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(DataError, match="search is empty"):
        BatchSource([], where="search")


@pytest.mark.parametrize("batch", [torch.zeros(2, 3), (torch.zeros(2, 3),), {"x": torch.zeros(2)}])
def test_a_batch_that_is_no_pair_is_refused(batch: Any) -> None:
    with pytest.raises(DataError, match=r"train, batch 1 is .*must be a pair \(inputs, targets\)"):
        BatchSource([*batches_of(2), batch], where="train")


def test_inputs_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(DataError, match="the inputs are a str"):
        BatchSource([("a picture", torch.zeros(1))])


def test_inputs_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="the inputs have 2, 3 samples"):
        BatchSource([((torch.zeros(2), torch.zeros(3)), torch.zeros(2))])


def test_nan_inputs_are_refused_with_their_batch() -> None:
    bad = torch.zeros(3, 2)
    bad[1, 0] = float("inf")
    with pytest.raises(DataError, match=r"train, batch 1: 1 of 3 inputs hold NaN or infinity \(first at sample 1\)"):
        BatchSource([*batches_of(2), (bad, torch.zeros(3))], where="train")


def test_class_numbers_outside_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match="search, batch 0: label 4 does not fit 4 classes"):
        from_batches(batches_of(4), batches_of(5), batches_of(4), num_classes=4)


def test_more_targets_than_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="2 inputs and 3 targets"):
        BatchSource([(torch.zeros(2, 1), torch.zeros(3, dtype=torch.int64))])


def test_a_data_set_is_made_of_three_lists() -> None:
    data = from_batches(batches_of(4), batches_of(3, 3), batches_of(5), name="mine")
    assert (data.name, data.num_classes, data.input_shape, data.num_trial_samples) == ("mine", None, (2,), 3)
    assert [s.source.num_samples for s in (data.train, data.search, data.test)] == [4, 6, 5]


def test_the_hash_of_a_data_set_changes_with_its_search_and_test_batches() -> None:
    def hash_of(search: list[Pair], test: list[Pair]) -> str:
        return from_batches(batches_of(4), search, test).content_hash

    assert hash_of(batches_of(6), batches_of(5)) == hash_of(batches_of(6), batches_of(5))
    assert hash_of(batches_of(6), batches_of(5)) != hash_of(batches_of(7), batches_of(5))
    assert hash_of(batches_of(6), batches_of(5)) != hash_of(batches_of(6), batches_of(7))


def test_a_loader_that_shuffles_is_refused_for_search_but_not_for_train() -> None:
    shuffled = loader_of(64, batch_size=32, shuffle=True)
    fixed = loader_of(64, batch_size=32)
    assert from_batches(shuffled, fixed, fixed).train.source.num_samples == 64
    with pytest.raises(DataError, match="search gives other inputs each time"):
        from_batches(fixed, shuffled, fixed)
