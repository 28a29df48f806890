"""The search of a run with an evaluator that costs nothing: who is compared, who can win."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tersenet.api import CompressOptions, check_deliver
from tersenet.api.prepare import Prepared, prepare
from tersenet.api.searching import Found, search
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.target import Target
from tersenet.errors import MissingExtraError, UnknownNameError
from tersenet.models import build
from tersenet.search import Study


class LessIsWorse:
    """Quality falls with everything that is removed, so that nothing within a budget is as good as a probe."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        removed = sum(channels.pruning_ratio or 0.0 for channels in policy.channels.values())
        return Evaluation(metrics=Metrics(top1=100.0 - 10.0 * removed, num_samples=100), seconds=0.0)

    def confirm(self, policy: Policy) -> Evaluation:
        return self.evaluate(policy)


class Unasked(LessIsWorse):
    """Fails where anything is measured."""

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        raise AssertionError(policy)


@pytest.fixture(scope="module")
def options() -> CompressOptions:
    return CompressOptions(trials=18, controls=("cem", "tpe", "uniform"))


@pytest.fixture(scope="module")
def prepared(options: CompressOptions) -> Prepared:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 1, 8, 8),)
    return prepare(build("digits_cnn"), inputs, target=Target(max_macs_ratio=0.5), recipe="greedy", options=options)


@pytest.fixture(scope="module")
def found(prepared: Prepared, options: CompressOptions, tmp_path_factory: pytest.TempPathFactory) -> Found:
    with Study(tmp_path_factory.mktemp("study") / "s.sqlite", identity={}) as study:
        return search(prepared, study, LessIsWorse(), seed=0, options=options)


def test_no_probe_is_confirmed_and_the_winner_keeps_the_budget(prepared: Prepared, found: Found) -> None:
    probes = [point for point in found.trials if point.phase == "probe"]
    assert len(probes) == 5  # everything whole, and one ratio of each of the four groups
    assert max(point.costs["macs"] for point in probes) == 1.0
    assert probes[0].quality == 100.0 > found.untuned.metrics.quality
    assert prepared.cost_ratios(found.winner)["macs"] <= 0.5
    assert all(entry.costs["macs"] <= 0.5 for entry in found.confirmed)


def test_all_methods_have_the_same_number_of_evaluations_and_keep_the_same_budget(found: Found) -> None:
    counts = dict.fromkeys(("greedy", "cem", "tpe", "uniform"), 0)
    for point in found.trials:
        counts[point.method] += 1
        assert point.phase == "probe" or point.costs["macs"] <= 0.5
    assert counts == {"greedy": 18, "cem": 18, "tpe": 18, "uniform": 1}
    assert {entry.method for entry in found.confirmed} == set(counts)


def test_the_policy_of_a_control_is_delivered_on_request_from_the_trials_that_are_there(
    prepared: Prepared, options: CompressOptions, found: Found, tmp_path: Path
) -> None:
    best = {entry.method: entry for entry in found.confirmed}
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        search(prepared, study, LessIsWorse(), seed=0, options=options)
        for name in ("cem", "uniform", "greedy"):
            again = search(prepared, study, Unasked(), seed=0, options=replace(options, deliver=name))
            chosen = max(entry.confirmed_quality for entry in again.confirmed if entry.method == name)
            assert again.untuned.metrics.quality == chosen
            assert name == "greedy" or again.winner == best[name].policy
            assert [point.quality for point in again.trials] == [point.quality for point in found.trials]


@pytest.mark.parametrize(("recipe", "deliver"), [("greedy", "random"), ("greedy", "gredy"), ("khatri2020", "uniform")])
def test_nobody_else_can_be_asked_for_a_policy(recipe: str, deliver: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"deliver.*'{deliver}'.*Known: {recipe}"):
        check_deliver(deliver, recipe, ("cem", "uniform"))


def test_a_missing_library_is_noticed_before_anything_is_measured(
    prepared: Prepared, options: CompressOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.recipes.recipe.find_spec", lambda library: None)
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        with pytest.raises(MissingExtraError, match=r"tersenet\[optuna\]"):
            search(prepared, study, LessIsWorse(), seed=0, options=options)
        assert study.fact("baseline") is None
