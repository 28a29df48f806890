"""Trials of one network in training: they switch, train and measure, one at a time."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from torch import nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.data import Data
from tersenet.errors import PolicyError, SearchError
from tersenet.evaluators import LiveEvaluator
from tersenet.graph import trace
from tersenet.measurement import Task, measure_quality
from tersenet.train import LiveSession, TrainConfig

HALF = Policy(channels={"conv3": ChannelDecision(keep=tuple(range(24)))})


def made(model: nn.Module, digits: Data, *, workers: int = 1) -> tuple[LiveSession, LiveEvaluator]:
    config = TrainConfig(seed=0, epochs=2, batch_size=64, learning_rate=0.02, autocast="off", channels_last="off")
    graph = trace(model, digits.example_inputs())
    session = LiveSession(model, graph, digits.train, config, group_ids=["conv3", "conv4"])
    return session, LiveEvaluator(session, digits.search, num_trial_samples=100, batches_per_round=2, workers=workers)


def test_a_trial_switches_trains_and_measures(digits_cnn: nn.Module, digits: Data) -> None:
    session, evaluator = made(digits_cnn, digits)
    found = evaluator.evaluate(HALF)
    assert int(session.active["conv3"].sum()) == 24
    assert session.epochs_done == pytest.approx(128 / digits.train.source.num_samples)
    assert session.qualities == [found.metrics.top1]
    assert found.metrics.num_samples == 100
    again = evaluator.evaluate(HALF)  # the same policy is another measurement, since the network has gone on
    assert session.qualities == [found.metrics.top1, again.metrics.top1]
    assert session.epochs_done == pytest.approx(256 / digits.train.source.num_samples)
    rest = measure_quality(session.network(), digits.search.source, Task(), split="search", skip=100)
    assert evaluator.confirm(HALF).metrics.top1 == rest.top1
    assert evaluator.signature["batches_per_round"] == "2"
    assert "conv3" not in Policy().channels
    evaluator.evaluate(Policy())
    assert session.active["conv3"].all()


def test_several_workers_and_trials_that_overlap_are_refused(digits_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(SearchError, match=r"cannot use 3 workers\. Set workers to 1"):
        made(digits_cnn, digits, workers=3)
    session, evaluator = made(digits_cnn, digits)
    under_way, may_end = threading.Event(), threading.Event()
    train = session.train

    def slow(num_batches: int) -> float:
        under_way.set()
        assert may_end.wait(60.0)
        return train(num_batches)

    session.train = slow  # type: ignore[method-assign]
    first = threading.Thread(target=evaluator.evaluate, args=(HALF,))
    first.start()
    assert under_way.wait(60.0)
    for call in (evaluator.evaluate, evaluator.confirm):
        with pytest.raises(SearchError, match="still under way"):
            call(HALF)
    may_end.set()
    first.join(60.0)
    assert len(session.qualities) == 1
    assert np.isfinite(evaluator.confirm(HALF).metrics.quality)


def test_a_policy_that_does_not_list_channels_is_refused(digits_cnn: nn.Module, digits: Data) -> None:
    _, evaluator = made(digits_cnn, digits)
    with pytest.raises(PolicyError, match=r"list the channels of its own groups \(keep\)"):
        evaluator.evaluate(Policy(channels={"conv3": ChannelDecision(pruning_ratio=0.5)}))
    with pytest.raises(PolicyError, match="Group 'stem'"):
        evaluator.evaluate(Policy(channels={"stem": ChannelDecision(keep=(0, 1))}))
