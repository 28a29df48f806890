"""Criteria against numbers worked out by hand, and the rule for coupled groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tersenet import criteria
from tersenet.criteria import MemberView, combine
from tersenet.criteria.base import register
from tersenet.criteria.geometric_median import geometric_median
from tersenet.criteria.l1 import l1
from tersenet.criteria.l2 import l2
from tersenet.errors import PolicyError, UnknownNameError
from tersenet.testing.contracts import check_criterion, check_criterion_without_norm


def _each(num: int) -> tuple[tuple[int, ...], ...]:
    return tuple((c,) for c in range(num))


@pytest.mark.parametrize("name", criteria.names())
def test_every_criterion_keeps_its_contract(name: str) -> None:
    check_criterion(criteria.get(name))
    check_criterion_without_norm(criteria.get(name))


def test_the_five_criteria_are_known_by_name() -> None:
    assert set(criteria.names()) >= {"bn_scale", "geometric_median", "l1", "l2", "random"}


def test_a_wrong_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'geometric_median'"):
        criteria.get("geometric_mean")


def test_l1_and_l2_of_a_three_four_filter_are_seven_and_five() -> None:
    weight = torch.tensor([[3.0, -4.0], [0.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(l1(weight), torch.tensor([7.0, 0.0, 1.0]))
    torch.testing.assert_close(l2(weight), torch.tensor([5.0, 0.0, 1.0]))


def test_the_filter_nearest_to_the_others_scores_lowest() -> None:
    filters = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    # by hand: 0+1+10, 1+0+9, 10+9+0
    torch.testing.assert_close(geometric_median(filters), torch.tensor([11.0, 10.0, 19.0]))


def test_a_filter_and_its_negative_are_far_apart() -> None:
    filters = torch.tensor([[3.0, 4.0], [-3.0, -4.0]])
    torch.testing.assert_close(geometric_median(filters), torch.tensor([10.0, 10.0]))


def test_geometric_median_agrees_with_the_norms_of_all_differences() -> None:
    weight = torch.randn(20, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = torch.stack([sum(((a - b).square().sum().sqrt() for b in weight), torch.tensor(0.0)) for a in weight])
    torch.testing.assert_close(geometric_median(weight), slow, check_dtype=False)


def test_wide_filters_are_summed_over_all_columns() -> None:
    weight = torch.zeros(2, 10_000)
    weight[0] = 1.0
    torch.testing.assert_close(geometric_median(weight), torch.tensor([100.0, 100.0]))


def test_nearly_equal_filters_far_from_zero_are_told_apart() -> None:
    filters = torch.tensor([[1000.0, 0.0], [1000.001, 0.0], [1000.004, 0.0]], dtype=torch.float64)
    expected = torch.tensor([0.005, 0.004, 0.007], dtype=torch.float64)
    torch.testing.assert_close(geometric_median(filters), expected, rtol=1e-2, atol=0.0)


def test_geometric_median_refuses_a_vector() -> None:
    with pytest.raises(ValueError, match=r"shape \(O, I"):
        geometric_median(torch.zeros(3))


def test_filters_of_other_groups_count_for_the_geometric_median() -> None:
    # Only filters 0 and 1 belong to the group; filter 2 makes 1 the more central of them.
    weight = torch.tensor([[0.0], [1.0], [10.0]])
    scores = criteria.get("geometric_median")([MemberView(weight, 0, ((0,), (1,)), None)], 0)
    # by hand: 11 and 10, over their mean 10.5
    torch.testing.assert_close(scores, torch.tensor([11.0, 10.0]) / 10.5)


def test_producers_are_scored_each_divided_by_its_mean_and_averaged() -> None:
    small = MemberView(torch.tensor([[1.0], [3.0]]), 0, _each(2), None)
    large = MemberView(torch.tensor([[500.0], [100.0]]), 0, _each(2), None)
    # by hand: small / 2 = (0.5, 1.5), large / 300 = (5/3, 1/3), average
    expected = torch.tensor([(0.5 + 5 / 3) / 2, (1.5 + 1 / 3) / 2])
    torch.testing.assert_close(criteria.get("l1")([small, large], 0), expected)


def test_a_producer_of_zeros_leaves_the_order_to_the_others() -> None:
    zeros = MemberView(torch.zeros(2, 3), 0, _each(2), None)
    ones = MemberView(torch.tensor([[1.0], [3.0]]), 0, _each(2), None)
    torch.testing.assert_close(criteria.get("l1")([zeros, ones], 0), torch.tensor([0.25, 0.75]))


def test_scores_below_zero_keep_their_order() -> None:
    # by hand: the mean absolute score is 2
    torch.testing.assert_close(combine([torch.tensor([-3.0, -1.0])]), torch.tensor([-1.5, -0.5]))


def test_a_group_without_producers_is_refused() -> None:
    with pytest.raises(ValueError, match="without producers"):
        combine([])


def test_channels_on_a_later_axis_with_two_positions_each_are_added_up() -> None:
    # Columns 0..3; channel 0 sits at columns 0 and 2, channel 1 at 1 and 3.
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, -2.0, 3.0, -4.0]])
    member = MemberView(weight, 1, ((0, 2), (1, 3)), None)
    # by hand: l1 of the columns 2, 4, 6, 8; channels 8 and 12; mean 10
    torch.testing.assert_close(criteria.get("l1")([member], 0), torch.tensor([0.8, 1.2]))
    torch.testing.assert_close(member.filters(), torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, -2.0, 4.0, -4.0]]))


def test_bn_scale_ranks_by_the_norm_and_ignores_producers_without_one() -> None:
    with_norm = MemberView(torch.rand(3, 2), 0, _each(3), torch.tensor([3.0, -1.0, 2.0]))
    without = MemberView(torch.rand(3, 2), 0, _each(3), None)
    scores = criteria.get("bn_scale")([with_norm, without], 0)
    torch.testing.assert_close(scores, torch.tensor([1.5, 0.5, 1.0]))


def test_bn_scale_without_any_norm_says_to_use_l1() -> None:
    with pytest.raises(PolicyError, match=r"criterion='bn_scale'.*Use criterion='l1'"):
        criteria.get("bn_scale")([MemberView(torch.rand(3, 2), 0, _each(3), None)], 0)


def test_random_depends_on_its_seed_and_not_on_the_global_one() -> None:
    member = MemberView(torch.rand(64, 2), 0, _each(64), None)
    score = criteria.get("random")
    torch.manual_seed(1)
    first = score([member], 0)
    torch.manual_seed(2)
    assert torch.equal(first, score([member], 0))
    assert not torch.equal(first, score([member], 1))


def test_half_precision_weights_are_scored_without_overflow() -> None:
    weight = torch.full((2, 4000), 60.0, dtype=torch.float16)
    weight[1] *= 0.5
    scores = criteria.get("l1")([MemberView(weight, 0, _each(2), None)], 0)
    torch.testing.assert_close(scores, torch.tensor([4 / 3, 2 / 3]))


def test_a_taken_name_is_refused() -> None:
    def l1(weight: Tensor) -> Tensor:
        return weight

    with pytest.raises(ValueError, match="registered already"):
        register(l1)
