"""Training the built-in network on the built-in data set, and tuning a smaller one with the larger as its teacher."""

from __future__ import annotations

import pytest
import torch

from tersenet import data, models
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import trace
from tersenet.measurement import accuracy
from tersenet.train import TrainConfig, fit, recalibrate
from tersenet.transforms import make_plan, materialize

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")


@pytest.mark.slow
def test_digits_are_learned_and_a_cut_network_is_tuned_back() -> None:
    digits = data.digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build("digits_cnn")
    fit(model, digits.train, digits.search, TrainConfig(seed=0, epochs=8, warmup_epochs=1.0))
    dense = accuracy(model, digits.test.source).top1
    assert dense > 95.0

    graph = trace(model, digits.example_inputs())
    ids = [group.group_id for group in graph.channel_groups if group.prunable]
    policy = Policy(channels={name: ChannelDecision(pruning_ratio=0.5) for name in ids})
    small = materialize(model, make_plan(model, graph, policy, seed=0))
    recalibrate(small, (inputs for inputs, _ in digits.train.source.batches(256)))
    untuned = accuracy(small, digits.test.source).top1
    tuning = TrainConfig(seed=0, epochs=6, learning_rate=0.05, distill_weight=0.7)
    fit(small, digits.train, digits.search, tuning, teacher=model)
    tuned = accuracy(small, digits.test.source).top1
    assert untuned < tuned
    assert tuned > dense - 8.0
