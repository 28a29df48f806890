"""zhan2019: what its first stage is given, proposes and is rewarded for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import recipes
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.progress import Silent
from tersenet.envs import Budget, JointSpace, Limit, channel_space, shares_of
from tersenet.envs.joint_space import threshold_levels
from tersenet.errors import SearchError
from tersenet.graph import masked_cost_table, trace
from tersenet.models import build
from tersenet.recipes import Problem, make_decisions
from tersenet.search import Method, Study, candidates, run_method


def a_problem() -> Problem:
    torch.manual_seed(0)
    graph = trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))
    layers = tuple(layer.name for layer in graph.layers[:-1])
    channels = channel_space(graph, prune_residual=False)
    num = channels.num_decisions + len(layers)
    space = JointSpace(
        channels=channels,
        steps=np.full(len(layers), 20, dtype=np.int64),
        fewest=np.full(len(layers), 2, dtype=np.int64),
        order=np.random.default_rng(0).permutation(num).astype(np.int64),
        unit="kernel",
        unit_criterion="l1",
    )
    table = masked_cost_table(graph, "macs", layers, unit="kernel", steps=space.steps)
    limit = Limit(kind="nonzero_macs", table=table, maximum=0.3 * graph.macs, original=float(graph.macs))
    return Problem(graph=graph, space=space, budget=Budget(limits=(limit,)), seed=0, layers=layers)


def with_thresholds(problem: Problem) -> Problem:
    """The same where equal numbers mean one threshold; later layers' units score higher."""
    assert isinstance(problem.space, JointSpace)
    rng = np.random.default_rng(0)
    scores = [rng.normal(mean, 1.0, 400) for mean in range(len(problem.layers))]
    levels = threshold_levels(scores, problem.space.steps, least=0.02)
    return replace(problem, space=replace(problem.space, levels=levels))


def first_stage(problem: Problem, **options: object) -> Method:
    recipe = recipes.get("zhan2019")
    config = recipe.configure({"trials": 12, **options})
    assert isinstance(config, recipes.zhan2019.Zhan2019Config)
    assert recipe.build_first is not None
    return recipe.build_first(problem, config.of_stage_1())


class KeptKernels:
    """Rewards what stays inside one layer."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        kept = policy.kernels["conv4"].keep_ratio if "conv4" in policy.kernels else 1.0
        return Evaluation(metrics=Metrics(top1=100.0 * (kept or 0.0)), seconds=0.0)

    confirm = evaluate


@pytest.mark.parametrize("agent", ["ddpg", "uniform", "random", "cem"])
def test_every_policy_of_the_first_stage_keeps_its_bound(agent: str, tmp_path: Path) -> None:
    problem = a_problem()
    method = first_stage(problem, agent=agent, prune_decoder="wall")
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        trials = run_method(method, study, KeptKernels(), seed=0, progress=Silent())
    assert method.name == "zhan2019-prune"
    assert len(trials) == (1 if agent == "uniform" else 12)
    decisions = make_decisions(problem, recipes.ChannelConfig())
    (limit,) = problem.budget.limits
    for trial in candidates(trials):
        cost = limit.table.cost(problem.space.whole(decisions.counts(trial.policy)))
        assert 0.25 * limit.original < cost <= limit.maximum
        assert trial.evaluation is not None
        error = 1.0 - trial.evaluation.metrics.quality / 100.0
        assert trial.reward == pytest.approx(-error * math.log(cost) / math.log(limit.original))


def test_the_uniform_control_keeps_equal_shares_where_agents_ask_for_thresholds(tmp_path: Path) -> None:
    problem = a_problem()
    scaled = with_thresholds(problem)
    recipe = recipes.get("uniform")
    policies = []
    for number, given in enumerate((problem, scaled)):
        method = recipe.build(given, recipe.configure({}))
        with Study(tmp_path / f"{number}.sqlite", identity={}) as study:
            (trial,) = run_method(method, study, KeptKernels(), seed=0, progress=Silent())
        policies.append(trial.policy)
    assert policies[0] == policies[1]
    asked = np.full((problem.space.num_decisions, 1), 0.5)
    left = [first_stage(given).env.decode(asked) for given in (problem, scaled)]
    assert left[0] != left[1]
    ratios = [left[1].kernels[name].keep_ratio if name in left[1].kernels else 1.0 for name in problem.layers]
    assert ratios[-1] == max(ratio or 0.0 for ratio in ratios)  # the layer whose units score highest


@pytest.mark.parametrize("agent", ["ddpg", "random", "cem"])
def test_with_a_reach_the_first_stage_stays_near_one_threshold(agent: str, tmp_path: Path) -> None:
    problem = with_thresholds(a_problem())
    space = problem.space
    assert isinstance(space, JointSpace)
    decisions = make_decisions(problem, recipes.ChannelConfig())
    is_layer = space.one_threshold[:, 0] == 0.0
    spreads, wholes = {}, {}
    for reach in (0.02, None):
        method = first_stage(problem, agent=agent, reach=reach)
        with Study(tmp_path / f"{reach}.sqlite", identity={}) as study:
            trials = run_method(method, study, KeptKernels(), seed=0, progress=Silent())
        box = method.env.action_space
        middle = decisions.counts(method.env.decode(np.tile((box.low + box.high) / 2.0, (space.num_decisions, 1))))
        away = [shares_of(space, decisions.counts(trial.policy)) - shares_of(space, middle) for trial in trials]
        spreads[reach] = max(float(np.ptp(change[is_layer])) for change in away)
        wholes[reach] = bool((middle == space.max_kept)[~is_layer].all())
    block = max(float(np.diff(levels).max()) for levels in space.levels)
    assert spreads[0.02] <= 2 * 0.02 + 2 * block < spreads[None]
    assert wholes[0.02]  # and in the middle no channel is cut
    assert not wholes[None]


def test_a_reach_changes_nothing_for_shares_and_for_the_uniform_control() -> None:
    problem = a_problem()
    asked = np.random.default_rng(0).uniform(0.1, 1.0, (problem.space.num_decisions, 1))
    for given, options in ((problem, {"unit_scale": "share"}), (with_thresholds(problem), {"agent": "uniform"})):
        near, anywhere = (first_stage(given, reach=reach, **options).env.decode(asked) for reach in (0.02, None))
        assert near == anywhere


def test_a_bootstrap_changes_what_is_proposed_once_something_is_learned(tmp_path: Path) -> None:
    proposed = []
    for bootstrap in (False, True):
        with Study(tmp_path / f"{bootstrap}.sqlite", identity={}) as study:
            method = first_stage(a_problem(), bootstrap=bootstrap)
            trials = run_method(method, study, KeptKernels(), seed=0, progress=Silent())
        proposed.append(np.stack([trial.proposals for trial in trials]))
    num_warmup = 3
    np.testing.assert_array_equal(proposed[0][: num_warmup + 1], proposed[1][: num_warmup + 1])
    assert not np.array_equal(proposed[0][num_warmup + 2 :], proposed[1][num_warmup + 2 :])


def test_observations_tell_groups_from_layers() -> None:
    problem = a_problem()
    assert isinstance(problem.space, JointSpace)
    env = recipes.make_env(problem, recipes.ChannelConfig(), decoder="level")
    is_layer = np.array([point.kind == "kernels" for point in env.points])
    np.testing.assert_array_equal(env.features[:, 0], is_layer)
    assert (env.features >= 0).all()
    assert (env.features <= 1).all()
    assert not env.features[is_layer, 1:12].any()  # those of groups
    assert not env.features[~is_layer, 12:].any()


def test_a_metric_of_the_users_own_is_the_reward_itself() -> None:
    problem, recipe = a_problem(), recipes.get("zhan2019")
    assert recipe.build_first is not None
    method = recipe.build_first(problem, recipe.configure({"trials": 4}))
    evaluation = Evaluation(metrics=Metrics(score=0.5, score_name="iou"), seconds=0.0)
    assert method.reward(evaluation, Policy()) == pytest.approx(0.005)


def test_one_bit_and_a_fixed_cut_are_refused() -> None:
    recipe = recipes.get("zhan2019")
    for option in ({"fewest": 1}, {"pruning_ratio": 0.3}, {"repair": "reconstruct"}):
        with pytest.raises(SearchError):
            recipe.configure(dict(option))
