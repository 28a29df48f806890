"""The agent of whole plans: its contract, its parts by hand, and toys whose optimum is solved exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import block_diag, csr_matrix, hstack

from tersenet.agents import CEM, CEMConfig, PlanAgent, PlanConfig
from tersenet.agents.plan_memory import PlanMemory
from tersenet.core.protocols import Box, FloatArray, Proposer, Transition
from tersenet.errors import SearchError, StudyError
from tersenet.testing.contracts import check_proposer
from tersenet.testing.toy_budget import ToySearch

BOX = Box(low=np.array([0.2, -3.0]), high=np.array([1.0, 5.0]))
UNIT = Box(low=np.zeros(1), high=np.ones(1))
BRIEF: dict[str, object] = {"num_members": 2, "hidden": 8, "updates": 2, "first_updates": 10}
SMALL = PlanConfig(num_members=2, hidden=8, batch_size=8, updates=2, first_updates=4, warmup_trials=4, num_trials=20)


class Rounded:
    """Executes tenths; every action costs the same, or nothing does."""

    def __init__(self, *, price: float = 1.0) -> None:
        self._price = price

    def executed(self, proposals: FloatArray) -> FloatArray:
        return np.round(proposals, 1)

    def prices(self, executed: FloatArray) -> FloatArray:
        return np.full(executed.shape, self._price)


def an_agent(config: PlanConfig = SMALL, *, seed: int = 0, price: float = 0.0, num_decisions: int = 3) -> PlanAgent:
    features = np.linspace(0.0, 1.0, num_decisions)[:, None]
    return PlanAgent(config, features=features, action_space=UNIT, space=Rounded(price=price), seed=seed)


def episode(plan: FloatArray) -> list[Transition]:
    return [
        Transition(
            observation=np.zeros(1),
            action_proposed=action,
            action_taken=np.round(action, 1),
            next_observation=np.zeros(1),
            done=step == len(plan) - 1,
        )
        for step, action in enumerate(plan)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"critic": "curves"}, {"critic": "joint"}, {"judged_by": "mean"}])
@pytest.mark.parametrize("price", [0.0, 1.0])
def test_it_keeps_its_contract(changes: dict[str, object], price: float) -> None:
    config = SMALL.model_copy(update=changes)

    def make(seed: int) -> PlanAgent:
        return PlanAgent(config, features=np.eye(3), action_space=BOX, space=Rounded(price=price), seed=seed)

    check_proposer(make, num_decisions=3, action_space=BOX)


def test_the_first_plan_is_the_same_action_everywhere_and_the_next_are_around_it() -> None:
    agent = an_agent(PlanConfig(warmup_trials=300, warmup_sigma=0.1))
    plans = []
    for _ in range(300):
        plans.append(agent.propose())
        agent.observe(episode(plans[-1]), reward=0.0)
    assert plans[0].tolist() == [[0.5]] * 3
    later = np.stack(plans[1:])
    # 897 draws: standard errors 0.003 of the mean and 0.002 of the spread
    assert later.mean() == pytest.approx(0.5, abs=0.02)
    assert later.std() == pytest.approx(0.1, abs=0.01)


def test_noise_decays_from_the_end_of_warm_up_to_four_fifths() -> None:
    agent = an_agent(SMALL.model_copy(update={"noise_start": 0.4, "noise_end": 0.1, "updates": 1, "first_updates": 1}))
    widths = []
    for _ in range(20):
        widths.append(agent.sigma)
        agent.observe(episode(np.full((3, 1), 0.5)), reward=0.0)
    # by hand: a factor of 4 from trial 4 to trial 16 is a half at trial 10
    assert widths[4] == pytest.approx(0.4)
    assert widths[10] == pytest.approx(0.2)
    assert widths[16:] == pytest.approx([0.1] * 4)


def test_executed_actions_are_remembered_not_proposed_ones() -> None:
    agent = an_agent()
    agent.observe(episode(np.array([[0.11], [0.52], [0.96]])), reward=0.25)
    state = agent.state_dict()
    np.testing.assert_allclose(state["memory.plans"].astype(float), [[0.1, 0.5, 1.0]], atol=1e-7)
    assert state["memory.rewards"].tolist() == [0.25]


def test_nothing_is_learnt_before_warm_up_ends() -> None:
    agent = an_agent()
    start = agent.state_dict()
    for count in range(1, 5):
        agent.observe(episode(agent.propose()), reward=0.1 * count)
        agent.learn()
        changed = not np.array_equal(start["critics.joint.weight0"], agent.state_dict()["critics.joint.weight0"])
        assert changed == (count == 4)
    state = agent.state_dict()
    assert float(state["critic_optimizer.0.step"]) == 4.0
    agent.learn()  # nothing was observed since
    assert float(agent.state_dict()["critic_optimizer.0.step"]) == 4.0


def test_plans_tried_before_are_not_proposed_while_there_are_others() -> None:
    agent = an_agent(SMALL.model_copy(update={"noise_start": 0.02, "noise_end": 0.02, "num_trials": 60}))
    seen: set[tuple[float, ...]] = set()
    for count in range(60):
        executed = np.round(agent.propose(), 1)
        if count >= 4:  # noise of 0.02 alone would hardly ever leave a tenth
            assert tuple(executed[:, 0]) not in seen
        seen.add(tuple(executed[:, 0]))
        agent.observe(episode(executed), reward=float(executed.sum()))
        agent.learn()


@pytest.mark.slow
def test_the_best_of_independent_actions_is_found_without_a_budget() -> None:
    config = PlanConfig(num_members=2, hidden=16, updates=6, first_updates=60, warmup_trials=20, num_trials=80)
    agent, goal = an_agent(config, num_decisions=4), np.array([0.1, 0.9, 0.3, 0.6])
    rewards = []
    for _ in range(80):
        plan = agent.propose()
        rewards.append(-float(np.square(np.round(plan[:, 0], 1) - goal).sum()))
        agent.observe(episode(plan), reward=rewards[-1])
        agent.learn()
    # by hand: a uniform action is 1/3 - goal + goal^2 away on average, 0.70 for the four
    assert np.mean(rewards[-10:]) > -0.1


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_refused(reward: float) -> None:
    with pytest.raises(SearchError, match="not a finite number"):
        an_agent().observe(episode(np.full((3, 1), 0.5)), reward=reward)


def test_an_episode_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        an_agent().observe(episode(np.full((2, 1), 0.5)), reward=0.0)


def test_states_of_other_sizes_are_refused() -> None:
    with pytest.raises(StudyError, match="does not fit this agent"):
        an_agent(SMALL.model_copy(update={"hidden": 4})).load_state_dict(an_agent().state_dict())
    with pytest.raises(StudyError, match="actions, members"):
        an_agent(SMALL.model_copy(update={"num_members": 3})).load_state_dict(an_agent().state_dict())


def test_the_best_plan_is_the_first_of_the_highest_reward_and_plans_are_recognised() -> None:
    memory = PlanMemory(num_actions=2, num_members=1)
    for plan, reward in (((0.1, 0.2), 1.0), ((0.3, 0.4), 2.0), ((0.5, 0.6), 2.0)):
        memory.add(np.array(plan, dtype=np.float32), reward, weights_M=np.ones(1))
    np.testing.assert_allclose(memory.best(), [0.3, 0.4], atol=1e-7)
    asked = np.array([[0.5, 0.6], [0.5, 0.7], [0.1, 0.2]], dtype=np.float32)
    assert [memory.holds(plan) for plan in asked] == [True, False, True]


def exact_optimum(toy: ToySearch, *, max_ratio: float = 0.5) -> float:
    """Best reward over all counts, by mixed-integer programming: one binary per layer and count."""
    counts = np.arange(13, 65)  # of 64, at least a fifth
    gains = np.stack([weight * (1.0 - (1.0 - counts / 64.0) ** 2) for weight in toy.importance])
    layers = len(gains)
    one_each = block_diag([csr_matrix(np.ones((1, len(counts))))] * layers)
    budget = hstack([csr_matrix(counts[None].astype(float))] * layers)
    solved = milp(
        -gains.ravel() / toy.importance.sum(),
        integrality=np.ones(gains.size),
        bounds=(0, 1),
        constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(budget, -np.inf, max_ratio * 64 * layers)],
    )
    return -float(solved.fun)


def search(proposer: Proposer, toy: ToySearch, num_episodes: int) -> FloatArray:
    rewards = []
    for _ in range(num_episodes):
        toy.env.decode(proposer.propose())
        rewards.append(toy.reward())
        proposer.observe(toy.env.transitions(), reward=rewards[-1])
        proposer.learn()
    return np.array(rewards)


def plan_agent_for(toy: ToySearch, *, trials: int, seed: int, **changes: object) -> PlanAgent:
    config = PlanConfig.model_validate({"num_trials": trials, "warmup_trials": trials // 4} | changes)
    env = toy.env
    return PlanAgent(config, features=env.features, action_space=env.action_space, space=env, seed=seed)


def test_the_exact_optimum_is_above_every_policy_and_hardly_below_the_one_of_real_ratios() -> None:
    toy = ToySearch(num_decisions=5, decoder="level", seed=0)
    best = exact_optimum(toy)
    assert toy.optimum() - 0.002 < best <= toy.optimum() + 1e-9
    found = search(plan_agent_for(toy, trials=40, seed=0, **BRIEF), toy, 40)
    assert found.max() <= best + 1e-9


@pytest.mark.slow
def test_a_search_that_is_interrupted_ends_the_same() -> None:
    toy = ToySearch(num_decisions=5, decoder="level", seed=0)
    through = search(plan_agent_for(toy, trials=24, seed=0, **BRIEF), toy, 24)
    first = plan_agent_for(toy, trials=24, seed=0, **BRIEF)
    begun = search(first, toy, 13)
    second = plan_agent_for(toy, trials=24, seed=77, **BRIEF)
    second.load_state_dict(first.state_dict())
    assert np.concatenate([begun, search(second, toy, 11)]).tolist() == through.tolist()


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    toy = ToySearch(num_decisions=4, decoder="level", seed=0)
    courses = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        courses.append(search(plan_agent_for(toy, trials=12, seed=0, **BRIEF), toy, 12).tolist())
        assert torch.equal(before, torch.get_rng_state())
    assert courses[0] == courses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("num_decisions", "least"), [(9, 0.95), (27, 0.8)])
def test_the_agent_comes_close_to_the_exact_optimum_and_beats_cross_entropy_in_every_seed(
    num_decisions: int, least: float
) -> None:
    for seed in range(3):
        toy = ToySearch(num_decisions=num_decisions, decoder="level", seed=seed)
        best = exact_optimum(toy)
        agent = search(plan_agent_for(toy, trials=120, seed=seed), toy, 120)
        env = toy.env
        control = CEM(CEMConfig(), num_decisions=env.num_decisions, action_space=env.action_space, seed=seed)
        cross_entropy = search(control, toy, 120)
        assert agent.max() > cross_entropy.max()
        # of the way from the same ratio everywhere to the optimum
        assert (agent.max() - toy.uniform()) / (best - toy.uniform()) > least
        assert agent[-20:].mean() > agent[:30].mean()
