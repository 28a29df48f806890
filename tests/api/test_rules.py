"""Rules and own criteria on a network, from what is looked at to the policy that comes out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.api import ChannelRule, ChannelRules, CompressOptions, compress, inspect
from tersenet.api.prepare import Prepared, prepare
from tersenet.api.storing import first_cut
from tersenet.core.target import Target
from tersenet.criteria import use
from tersenet.data import Data
from tersenet.errors import ModelError, StudyError, UnknownNameError
from tersenet.models import build
from tersenet.recipes import make_env

INPUTS = (torch.zeros(2, 1, 8, 8),)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("digits_cnn").eval()


def last_filter_first(weight: Tensor) -> Tensor:
    return -torch.arange(len(weight)).float()


def fails(weight: Tensor) -> Tensor:
    raise RuntimeError("not today")


RULES = ChannelRules(
    by_name={
        "block1.conv1": ChannelRule(pruning_ratio=0.5, criterion="l2"),
        "block2": None,
        "conv3": ChannelRule(lower_bound=0.75, round_to=4, criterion=use(last_filter_first)),
    }
)


def prepared(model: nn.Module, rules: ChannelRules, *, recipe: str = "uniform", **config: object) -> Prepared:
    options = CompressOptions(rules=rules, recipe_options=config)
    target = Target(max_macs_ratio=0.9) if recipe == "uniform" else None
    return prepare(model, INPUTS, target=target, recipe=recipe, options=options)


def test_a_decoded_policy_keeps_to_the_rules_and_to_the_budget(model: nn.Module) -> None:
    ready = prepared(model, RULES)
    env = make_env(ready.problem(seed=0), ready.config, decoder="level")
    policy = env.decode(np.full((ready.space.num_decisions, 1), 0.1))
    assert "block2.conv1" not in policy.channels
    fixed = policy.channels["block1.conv1"]
    assert fixed.criterion == "l2"
    channels = {group.group_id: group.num_channels for group in ready.graph.channel_groups}
    assert fixed.num_kept(channels["block1.conv1"]) == channels["block1.conv1"] // 2
    kept = policy.channels["conv3"].num_kept(channels["conv3"]) if "conv3" in policy.channels else channels["conv3"]
    assert kept >= 0.75 * channels["conv3"]
    assert kept % 4 == 0
    assert ready.cost_ratios(policy)["macs"] <= 0.9


def test_a_fixed_cut_before_storage_follows_the_rules_too(model: nn.Module) -> None:
    ready = prepared(model, RULES, recipe="wang2020", pruning_ratio=0.4)
    channels = first_cut(ready).channels
    assert "block2.conv1" not in channels
    assert channels["block1.conv1"].pruning_ratio == 0.5
    assert channels["block1.conv1"].criterion == "l2"
    assert channels["conv3"].pruning_ratio == 0.25
    assert channels["conv3"].criterion.endswith(":last_filter_first")
    others = [decision for name, decision in channels.items() if name not in ("block1.conv1", "conv3")]
    assert {(decision.pruning_ratio, decision.criterion) for decision in others} == {(0.4, "geometric_median")}


def test_inspect_shows_what_the_rules_leave(model: nn.Module) -> None:
    seen = inspect(model, example_inputs=INPUTS, options=CompressOptions(rules=RULES))
    rows = {row.group_id: row for row in seen.groups}
    free = {row.group_id: row for row in inspect(model, example_inputs=INPUTS).groups}
    assert rows["block2.conv1"].reason == "left alone by the rule by_name 'block2'"
    assert rows["block2.conv1"].min_kept is None
    half = rows["block1.conv1"].num_channels // 2
    assert (rows["block1.conv1"].min_kept, rows["block1.conv1"].max_kept) == (half, half)
    assert (rows["conv3"].min_kept, rows["conv3"].round_to) == (3 * rows["conv3"].num_channels // 4, 4)
    assert free["conv3"].max_kept == free["conv3"].num_channels
    assert [row.bytes_before for row in seen.layers] == [4 * row.params_before for row in seen.layers]


def test_a_criterion_that_fails_does_so_before_anything_is_spent(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="fails' fails: RuntimeError: not today"):
        prepared(model, ChannelRules(everything=ChannelRule(criterion=use(fails))))


def test_unknown_names_in_rules_are_refused(model: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"by_name 'conv33' matches no layer. .*'conv3'"):
        prepared(model, ChannelRules(by_name={"conv33": None}))
    with pytest.raises(UnknownNameError, match="Did you mean 'geometric_median'"):
        prepared(model, ChannelRules(by_name={"conv3": ChannelRule(criterion="geometric_mean")}))


def test_a_network_that_is_left_alone_has_nothing_to_cut(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="left alone by the rule everything"):
        prepared(model, ChannelRules(everything=None))
    seen = inspect(model, example_inputs=INPUTS, options=CompressOptions(rules=ChannelRules(everything=None)))
    assert "left alone by the rule everything" in {row.reason for row in seen.groups}


@pytest.mark.slow
def test_a_run_keeps_to_the_rules_and_a_run_without_them_is_another(
    digits_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    target = Target(max_macs_ratio=0.9)
    options = CompressOptions(rules=RULES, trials=3, finetune_epochs=0, controls=(), out=tmp_path / "run")
    result = compress(digits_cnn, data=digits, target=target, seed=0, options=options)
    assert result.target_reached
    assert all(check.passed for check in result.run.checks)
    kept = {row.group_id: row.num_kept / row.num_channels for row in result.run.groups}
    assert (kept["block1.conv1"], kept["block2.conv1"]) == (0.5, 1.0)
    assert kept["conv3"] >= 0.75
    assert ChannelRules.model_validate(result.run.recipe_config["rules"]) == RULES
    with pytest.raises(StudyError, match="rules"):
        compress(digits_cnn, data=digits, target=target, seed=0, options=replace(options, rules=None))
