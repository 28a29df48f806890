"""A criterion of the user's own: a function, or where one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tersenet import criteria
from tersenet.criteria import MemberView
from tersenet.errors import ModelError, NotFoundError, UnknownNameError
from tersenet.testing.contracts import check_criterion

MEMBER = MemberView(torch.tensor([[1.0, -5.0], [2.0, 2.0], [0.0, 1.0]]), 0, ((0,), (1,), (2,)), None)


def largest(weight: Tensor) -> Tensor:
    return weight.abs().amax(dim=1)


def of_members(members: Sequence[MemberView], seed: int) -> Tensor:
    return torch.arange(len(members[0].positions)).float() + seed


def test_a_function_of_a_weight_keeps_the_contract_of_every_criterion() -> None:
    name = criteria.use(largest)
    assert name.endswith(":largest")
    check_criterion(criteria.get(name))
    # largest of each filter 5, 2, 1, over their mean 8/3
    expected = torch.tensor([5.0, 2.0, 1.0]) / (8 / 3)
    torch.testing.assert_close(criteria.get(name)([MEMBER], 0), expected)


def test_a_function_of_all_members_gets_them_and_the_seed() -> None:
    torch.testing.assert_close(criteria.get(criteria.use(of_members))([MEMBER], 7), torch.tensor([7.0, 8.0, 9.0]))


def test_a_function_in_a_file_goes_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def first_weight(weight):\n    return weight[:, 0]\n")
    spec = f"{tmp_path / 'mine.py'}:first_weight"
    with pytest.raises(UnknownNameError, match="Enter it first"):
        criteria.get(spec)  # a policy alone runs no code
    assert criteria.use(spec) == spec
    torch.testing.assert_close(criteria.get(spec)([MEMBER], 0), torch.tensor([1.0, 2.0, 0.0]))
    assert criteria.use("l1") == "l1"


def test_the_same_function_written_anew_replaces_the_old_one() -> None:
    def score(weight: Tensor) -> Tensor:
        return weight[:, 0]

    first = criteria.use(score)

    def replaced() -> str:
        def score(weight: Tensor) -> Tensor:
            return weight[:, 1]

        score.__qualname__ = first.partition(":")[2]
        return criteria.use(score)

    assert replaced() == first
    # -5, 2, 1 over the mean of what they are without sign, 8/3
    torch.testing.assert_close(criteria.get(first)([MEMBER], 0), torch.tensor([-5.0, 2.0, 1.0]) / (8 / 3))


def test_what_cannot_be_a_criterion_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"nowhere\.py"):
        criteria.use(f"{tmp_path / 'nowhere.py'}:score")
    (tmp_path / "odd.py").write_text("number = 3\ndef three(a, b, c):\n    return a\n")
    with pytest.raises(ModelError, match="must be a function"):
        criteria.use(f"{tmp_path / 'odd.py'}:number")
    with pytest.raises(ModelError, match=r"one weight, or of \(members, seed\); it takes \(a, b, c\)"):
        criteria.use(f"{tmp_path / 'odd.py'}:three")
    with pytest.raises(UnknownNameError, match="Did you mean 'geometric_median'"):
        criteria.use("geometric_mean")


def test_scores_that_are_wrong_name_the_criterion() -> None:
    def too_few(weight: Tensor) -> Tensor:
        return weight.sum(dim=1)[:2]

    def not_numbers(weight: Tensor) -> Tensor:
        return weight.sum(dim=1) / 0 * 0

    def fails(weight: Tensor) -> Tensor:
        raise KeyError("no such thing")

    for wrong, message in (
        (too_few, r"give 3 finite numbers .* got \(2,\)"),
        (not_numbers, "finite"),
        (fails, "KeyErr"),
    ):
        with pytest.raises(ModelError, match=message):
            criteria.get(criteria.use(wrong))([MEMBER], 0)
