"""Recipes: found by name, configured with clear errors, and exact in their budget."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from tersenet import recipes
from tersenet.agents import DDPG, ConstantAgent
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.progress import Silent
from tersenet.core.protocols import Proposer
from tersenet.core.target import CostKind
from tersenet.envs import Budget, ChannelSpace, Limit, StorageDecisions
from tersenet.errors import MissingExtraError, SearchError, UnknownNameError
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.models import build
from tersenet.recipes import ChannelConfig, Problem
from tersenet.search import Method, Study, candidates, run_method
from tersenet.testing.toy_storage import toy_storage_problem


class KeptShare:
    """Rewards keeping the last decided group; costs nothing to ask."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        removed = policy.channels["conv4"].pruning_ratio if "conv4" in policy.channels else 0.0
        return Evaluation(metrics=Metrics(top1=100.0 * (1.0 - (removed or 0.0))), seconds=0.0)

    confirm = evaluate


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))


def a_problem(graph: ModelGraph, config: ChannelConfig, *, seed: int = 0) -> Problem:
    bounds: tuple[tuple[CostKind, float, float], ...] = (
        ("macs", 0.5, float(graph.macs)),
        ("params", 0.6, float(graph.num_params)),
    )
    limits = tuple(
        Limit(kind=kind, table=cost_table(graph, kind), maximum=share * original, original=original)
        for kind, share, original in bounds
    )
    return Problem(graph=graph, space=recipes.make_space(graph, config), budget=Budget(limits=limits), seed=seed)


OVER_CHANNELS = [name for name in recipes.names() if "channels" in recipes.get(name).decides]
OVER_STORAGE = [
    (name, kind)
    for name in recipes.names()
    for kind in recipes.get(name).decides
    if kind in ("clusters", "weight_bits")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", OVER_CHANNELS)
def test_every_policy_keeps_the_budget_exactly(name: str, graph: ModelGraph, tmp_path: object) -> None:
    recipe = recipes.get(name)
    config = recipe.configure({"trials": 14})
    problem = a_problem(graph, config)
    method = recipe.build(problem, config)
    with Study(tmp_path / "s.sqlite", identity={}) as study:  # type: ignore[operator]
        trials = run_method(method, study, KeptShare(), seed=0, progress=Silent())
    assert len(trials) == method.num_trials
    sizes = [group.num_channels for group in graph.channel_groups]
    assert isinstance(problem.space, ChannelSpace)
    for trial in candidates(trials):
        kept = np.array(sizes)
        for index, group in enumerate(graph.channel_groups):
            if group.group_id in trial.policy.channels:
                kept[index] = trial.policy.channels[group.group_id].num_kept(group.num_channels)
        assert problem.budget.fits(kept)
        for decision, index in enumerate(problem.space.indices):  # by brute force: nothing more fits anywhere
            larger = kept.copy()
            larger[index] = problem.space.above(decision, int(kept[index]))
            assert larger[index] == kept[index] or not problem.budget.fits(larger)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), OVER_STORAGE)
def test_every_form_of_storage_keeps_the_budget_exactly(
    name: str, kind: Literal["clusters", "weight_bits"], graph: ModelGraph, tmp_path: object
) -> None:
    class Bits:
        """More bits are better, the first layer's most."""

        signature: dict[str, str] = {}  # noqa: RUF012

        def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
            counts = decisions.counts(policy) / problem.space.max_kept
            quality = 100.0 * float(np.average(counts, weights=np.arange(len(counts), 0, -1)))
            return Evaluation(metrics=Metrics(top1=quality), seconds=0.0)

        confirm = evaluate

    recipe = recipes.get(name)
    problem = toy_storage_problem(graph, kind=kind, max_ratio=0.12, seed=0)
    decisions = StorageDecisions(problem.layers, kind=kind)
    method = recipe.build(problem, recipe.configure({"trials": 14}))
    with Study(tmp_path / "s.sqlite", identity={}) as study:  # type: ignore[operator]
        trials = run_method(method, study, Bits(), seed=0, progress=Silent())
    assert len(trials) == method.num_trials
    for trial in candidates(trials):
        counts = decisions.counts(trial.policy)
        assert problem.budget.fits(counts)
        for decision, count in enumerate(counts):  # by brute force: nothing more fits anywhere
            larger = counts.copy()
            larger[decision] += 1
            assert count == problem.space.max_kept[decision] or not problem.budget.fits(larger)


def test_uniform_over_storage_is_the_same_number_of_clusters_nearly_everywhere(graph: ModelGraph) -> None:
    problem = toy_storage_problem(graph, kind="clusters", max_ratio=0.12, seed=0)
    recipe = recipes.get("uniform")
    env = recipe.build(problem, recipe.configure({})).env
    policy = env.decode(np.ones((len(problem.layers), 1)))
    counts = StorageDecisions(problem.layers, kind="clusters").counts(policy)
    assert problem.budget.fits(np.full(len(counts), 14))  # 0.12 * 32 = 3.84 bits, and 2 ** 3.84 = 14.3
    assert not problem.budget.fits(np.full(len(counts), 15))
    assert min(counts) == 14
    assert sorted(counts)[len(counts) // 2] <= 15  # what is left over goes to a few


def test_uniform_keeps_nearly_the_same_share_everywhere(graph: ModelGraph) -> None:
    recipe = recipes.get("uniform")
    config = recipe.configure({"round_to": 1})
    problem = a_problem(graph, config)
    method = recipe.build(problem, config)
    assert isinstance(method.agent, ConstantAgent)
    observation, done = method.env.reset(seed=0), False
    while not done:
        observation, done = method.env.step(method.agent.act(observation))
    policy = method.env.decode()
    shares = [1.0 - (decision.pruning_ratio or 0.0) for decision in policy.channels.values()]
    assert max(shares) - min(shares) < 0.08  # one channel of the smallest group is 1/24


@pytest.mark.parametrize(("name", "trials", "warmup"), [("he2018", 800, 100), ("he2018", 300, 37), ("yu2021", 300, 25)])
def test_noise_is_multiplied_by_95_percent_per_episode_as_in_the_code_of_amc(
    graph: ModelGraph, name: str, trials: int, warmup: int
) -> None:
    if name == "yu2021":
        pytest.importorskip("torch_geometric")
    recipe = recipes.get(name)
    config = recipe.configure({"trials": trials} | ({"state": "hand_made"} if name == "yu2021" else {}))
    method = recipe.build(a_problem(graph, config), config)
    agent = method.agent
    assert isinstance(agent, DDPG)
    method.env.decode(np.full((method.env.num_decisions, 1), 0.5))
    steps = method.env.transitions()
    widths = []
    for _ in range(trials):
        widths.append(agent.sigma)
        agent.observe(steps, reward=0.0)
    assert method.num_warmup == warmup
    assert widths[: warmup + 1] == [0.5] * (warmup + 1)
    published = [0.5 * 0.95**number for number in range(46)]
    assert widths[warmup : warmup + 46] == pytest.approx(published, rel=0.01)
    assert widths[warmup + 45 :] == pytest.approx([0.05] * (trials - warmup - 45))  # AMC's goes on towards 0


def test_in_a_search_too_short_for_it_noise_has_fallen_at_four_fifths() -> None:
    assert recipes.recipe.amc_noise(10, trials=40) == 0.8
    assert recipes.recipe.amc_noise(10, trials=100) == 0.55


def test_the_agent_of_he2018_is_amcs(graph: ModelGraph) -> None:
    recipe = recipes.get("he2018")
    config = recipe.configure({"trials": 100})
    method = recipe.build(a_problem(graph, config), config)
    assert method.num_warmup == 12  # an eighth of the trials, as 100 of 800 are
    assert recipe.build(a_problem(graph, config), recipe.configure({"trials": 20})).num_warmup == 10
    sizes = [array.shape for name, array in method.agent.state_dict().items() if "actor" in name and array.ndim == 2]
    assert (300, 300) in sizes


@pytest.mark.slow
def test_the_same_seed_gives_the_same_policies_and_another_one_others(graph: ModelGraph, tmp_path: object) -> None:
    found = []
    for run, seed in enumerate((0, 0, 1)):
        recipe = recipes.get("he2018")
        config = recipe.configure({"trials": 16})
        with Study(tmp_path / f"{run}.sqlite", identity={}) as study:  # type: ignore[operator]
            method = recipe.build(a_problem(graph, config, seed=seed), config)
            trials = run_method(method, study, KeptShare(), seed=seed, progress=Silent())
        found.append([trial.policy.digest() for trial in trials])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_residual_groups_are_decided_only_on_request(graph: ModelGraph) -> None:
    plain = recipes.make_space(graph, ChannelConfig())
    whole = recipes.make_space(graph, ChannelConfig(prune_residual=True))
    names = [graph.channel_groups[int(index)].group_id for index in plain.indices]
    assert names == ["block1.conv1", "block2.conv1", "conv3", "conv4"]
    assert len(whole.indices) == 6  # the two residual streams as well


def test_narrow_groups_are_not_rounded(graph: ModelGraph) -> None:
    space = recipes.make_space(graph, ChannelConfig(round_to=8, round_from=64))
    assert space.block.tolist() == [1, 1, 1, 8]  # 24, 32, 48 and 64 channels


def test_a_control_shares_what_it_can(graph: ModelGraph) -> None:
    main = recipes.get("he2018").configure({"criterion": "l2", "lower_bound": 0.3, "decoder": "level"})
    control = recipes.as_control(main, recipes.get("random"))
    assert (control.criterion, control.lower_bound) == ("l2", 0.3)
    assert not hasattr(control, "bootstrap")


def test_random_is_decoded_like_the_recipe_it_stands_beside_and_he2018_by_its_own_wall() -> None:
    he2018, random, cem = (recipes.get(name) for name in ("he2018", "random", "cem"))
    assert recipes.as_control(he2018.configure({"decoder": "level"}), random).model_dump()["decoder"] == "level"
    assert recipes.as_control(he2018.configure({}), random).model_dump()["decoder"] == "wall"
    assert recipes.as_control(cem.configure({}), random).model_dump()["decoder"] == "wall"
    assert recipes.as_control(random.configure({"decoder": "level"}), he2018).model_dump()["decoder"] == "wall"


def test_controls_are_the_recipes_without_a_network() -> None:
    assert recipes.controls() == ["cem", "cmaes", "greedy", "random", "tpe", "uniform"]


def test_a_rule_has_one_trial_and_all_others_as_many_as_are_set() -> None:
    config = ChannelConfig(trials=50)
    assert {name: recipes.get(name).num_trials(config) for name in ("uniform", "random", "greedy")} == {
        "uniform": 1,
        "random": 50,
        "greedy": 50,
    }


def test_what_is_not_installed_is_refused_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.recipes.recipe.find_spec", lambda library: None)
    recipes.get("cem").check_installed()
    with pytest.raises(MissingExtraError, match=r"tersenet\[optuna\]"):
        recipes.get("cmaes").check_installed()


def _greedy(graph: ModelGraph, trials: int) -> Method:
    recipe = recipes.get("greedy")
    config = recipe.configure({"trials": trials, "round_to": 1})
    return recipe.build(a_problem(graph, config), config)


def test_greedy_measures_each_group_alone_and_then_keeps_what_matters(graph: ModelGraph, tmp_path: Path) -> None:
    method = _greedy(graph, 40)
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        trials = run_method(method, study, KeptShare(), seed=0, progress=Silent())
    # 0.3 of 40 trials are 12: one of everything whole, and two ratios of each of the four groups
    probes = [trial for trial in trials if trial.phase == "probe"]
    assert [trial.number for trial in probes] == list(range(9))
    assert [len(trial.policy.channels) for trial in probes] == [0] + [1] * 8
    assert len(trials) == 40
    # only conv4 is rewarded, so all that the budget allows goes there, at once
    first = candidates(trials)[0]
    assert "conv4" not in first.policy.channels


def test_greedy_does_without_probes_where_trials_are_few(graph: ModelGraph) -> None:
    assert _greedy(graph, 16).num_probes == 0  # 0.3 of 16 are 4: one short of measuring four groups once
    assert _greedy(graph, 17).num_probes == 5


@pytest.mark.parametrize("name", ["cem", "tpe", "cmaes"])
def test_other_seeds_give_other_policies(name: str, graph: ModelGraph) -> None:
    recipe = recipes.get(name)
    config = recipe.configure({})
    methods = [recipe.build(a_problem(graph, config, seed=seed), config) for seed in (0, 0, 1)]
    vectors = [method.agent.propose() for method in methods if isinstance(method.agent, Proposer)]
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.array_equal(vectors[0], vectors[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterio": "l1"}, "Did you mean 'criterion'"),
        ({"lower_bound": 0.0}, "lower_bound=0.0"),
        ({"decoder": "floor"}, "decoder='floor'"),
    ],
)
def test_a_wrong_option_is_named_with_the_ones_there_are(options: dict[str, object], message: str) -> None:
    with pytest.raises((SearchError, UnknownNameError), match=message) as caught:
        recipes.get("he2018").configure(options)
    assert "lower_bound" in str(caught.value)


def test_a_wrong_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'uniform'"):
        recipes.get("unifrom")


def test_the_reward_is_the_quality_and_nothing_else() -> None:
    evaluation = Evaluation(metrics=Metrics(top1=61.5), seconds=0.0)
    assert recipes.recipe.quality_reward(evaluation, Policy()) == pytest.approx(0.615)


def test_a_network_whose_groups_are_all_residual_says_so() -> None:
    class OnlyResidual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 4, 3, padding=1)
            self.b = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            logits: torch.Tensor = self.head((x + self.b(x)).mean(dim=(2, 3)))
            return logits

    found = trace(OnlyResidual(), torch.randn(2, 1, 8, 8))
    with pytest.raises(ValueError, match="prune_residual=True"):
        recipes.make_space(found, ChannelConfig())
