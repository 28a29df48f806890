"""Data, label checks, hashes and the stratified order."""

from __future__ import annotations

import pytest
import torch

from tersenet.data import ArraySource, Data, SearchSplit, TestSplit, TrainSplit
from tersenet.data.checks import check_labels, content_hash, stratified_order
from tersenet.errors import DataError


def source_of(num_samples: int) -> ArraySource:
    images = torch.arange(num_samples, dtype=torch.float32)[:, None, None, None].expand(num_samples, 1, 2, 2)
    return ArraySource(images, torch.zeros(num_samples, dtype=torch.int64), mean=(0.0,), std=(1.0,), augment=None)


def data_of(num_search: int, num_trial_samples: int = 0) -> Data:
    return Data(
        name="toy",
        train=TrainSplit(source_of(8)),
        search=SearchSplit(source_of(num_search)),
        test=TestSplit(source_of(3)),
        num_classes=2,
        input_shape=(1, 2, 2),
        content_hash="0",
        num_trial_samples=num_trial_samples,
    )


@pytest.mark.parametrize(("num_search", "expected"), [(2, 1), (297, 148), (4000, 2000), (5000, 2000)])
def test_trials_get_half_of_the_search_split_at_most_2000(num_search: int, expected: int) -> None:
    assert data_of(num_search).num_trial_samples == expected


def test_the_number_of_trial_samples_can_be_chosen() -> None:
    assert data_of(10, num_trial_samples=9).num_trial_samples == 9


@pytest.mark.parametrize("num_trial_samples", [-1, 10, 11])
def test_some_search_samples_must_be_left_to_confirm(num_trial_samples: int) -> None:
    with pytest.raises(DataError, match="must lie between 1 and 9"):
        data_of(10, num_trial_samples=num_trial_samples)


def test_a_search_split_of_one_sample_is_refused() -> None:
    with pytest.raises(DataError, match="has 1 samples, but it needs at least 2"):
        data_of(1)


def test_example_inputs_are_the_first_of_the_search_split() -> None:
    (inputs,) = data_of(10).example_inputs(3)
    assert inputs[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]


def test_a_negative_label_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"labels\.csv: label -1 is negative \(first at sample 2\)"):
        check_labels(torch.tensor([0, 1, -1]), num_classes=2, where="labels.csv")


def test_a_label_beyond_the_classes_is_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"label 5 does not fit 3 classes.*sample 1.*set num_classes to 6"):
        check_labels(torch.tensor([0, 5]), num_classes=3, where="train")


def test_labels_within_the_classes_pass() -> None:
    check_labels(torch.tensor([0, 2]), num_classes=3, where="train")
    check_labels(torch.tensor([], dtype=torch.int64), num_classes=3, where="train")


def test_the_hash_sees_values_shapes_types_and_order() -> None:
    a, b = torch.zeros(4), torch.ones(4)
    hashes = {
        content_hash(parts)
        for parts in ([a, b], [b, a], [a.view(2, 2), b], [a.int(), b], [a], ["a", "b"], ["ab"], [torch.cat([a, b])])
    }
    assert len(hashes) == 8
    assert content_hash([a, b]) == content_hash([a.clone(), b.clone()])


def test_the_hash_does_not_depend_on_the_layout_in_memory() -> None:
    matrix = torch.arange(6.0).view(2, 3)
    assert content_hash([matrix.t()]) == content_hash([torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])])


def test_every_stretch_of_a_stratified_order_holds_the_classes_in_their_shares() -> None:
    labels = [0] * 60 + [1] * 30 + [2] * 10
    order = stratified_order(labels, [str(position) for position in range(100)])
    assert sorted(order) == list(range(100))
    for start in range(0, 100, 20):
        counts = [sum(labels[position] == label for position in order[start : start + 20]) for label in range(3)]
        assert counts == pytest.approx([12, 6, 2], abs=1)


def test_the_stratified_order_mixes_within_a_class() -> None:
    order = stratified_order([0] * 50, [str(position) for position in range(50)])
    assert order != sorted(order)
