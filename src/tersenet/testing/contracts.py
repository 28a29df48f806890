"""What every criterion, agent, proposer and environment must keep to, as checks that an author of one can run.

Each check takes the thing (or a function that makes one), raises ``AssertionError`` with what went wrong, and returns
nothing. They are meant for a test file: ``check_criterion(criteria.get("mine"))``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from tersenet.core.protocols import Agent, Box, Env, FloatArray, Learner, Proposer, State, Transition
from tersenet.criteria import Criterion, MemberView
from tersenet.errors import PolicyError, SearchError


def check_criterion(criterion: Criterion) -> None:
    """Check a criterion: shapes, finite scores, order of channels, repeatability, and that it changes nothing.

    Raises:
        AssertionError: the criterion breaks one of these.
    """
    for members in _groups():
        num_channels = len(members[0].positions)
        before = [member.weight.clone() for member in members]
        scores = criterion(members, 3)
        assert scores.shape == (num_channels,), f"scores must have shape ({num_channels},), got {tuple(scores.shape)}"
        assert torch.isfinite(scores).all(), "scores must be finite"
        assert scores.is_floating_point(), f"scores must be floating-point, got {scores.dtype}"
        assert not scores.requires_grad, "scores must not carry a gradient"
        assert torch.equal(scores, criterion(members, 3)), "the same members and seed must give the same scores"
        for member, weight in zip(members, before, strict=True):
            assert torch.equal(member.weight, weight), "a criterion must not change the weights"
    _check_order_follows_positions(criterion)


def _groups() -> list[list[MemberView]]:
    generator = torch.Generator().manual_seed(0)

    def member(*shape: int, axis: int = 0, per_channel: int = 1) -> MemberView:
        num_channels = shape[axis] // per_channel
        positions = tuple(tuple(c + num_channels * part for part in range(per_channel)) for c in range(num_channels))
        weight = torch.nn.Parameter(torch.randn(*shape, generator=generator))
        scale = torch.rand(num_channels, generator=generator)
        return MemberView(weight, axis, positions, scale, torch.rand(shape[axis], generator=generator))

    zeros = MemberView(torch.zeros(4, 3), 0, ((0,), (1,), (2,), (3,)), torch.zeros(4), torch.zeros(4))
    return [
        [member(6, 3, 3, 3)],
        [member(6, 5)],
        [member(4, 6, 2, 2, axis=1)],
        [member(12, 2, 3, 3, per_channel=2)],
        [member(6, 3, 3, 3), member(6, 8), member(12, 4, per_channel=2)],
        [member(1, 3)],
        [zeros],
    ]


def _check_order_follows_positions(criterion: Criterion) -> None:
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    scale = torch.arange(1.0, 6.0)
    forward = criterion([MemberView(weight, 0, tuple((c,) for c in range(5)), scale, scale)], 0)
    turned = criterion([MemberView(weight.flip(0), 0, tuple((4 - c,) for c in range(5)), scale, scale.flip(0))], 0)
    assert torch.allclose(forward, turned, rtol=1e-5), "a score must follow its channel's positions on the weight"


def check_agent(make: Callable[[int], Agent], *, observation_size: int, action_space: Box) -> None:
    """Check an agent: proposals in the box, repeatable from its seed, and exact to save and restore.

    Args:
        make: builds a fresh agent from a seed.
        observation_size: entries of one observation.
        action_space: the box the agent was made for.

    Raises:
        AssertionError: the agent breaks one of these.
    """
    first, same, other = make(0), make(0), make(1)
    course = [_episode(agent, observation_size, seed) for agent in (first, same, other) for seed in range(6)]
    for action in np.concatenate(course):
        assert action.shape == (action_space.size,), f"an action must have shape ({action_space.size},)"
        inside = np.all(action >= action_space.low - 1e-9) and np.all(action <= action_space.high + 1e-9)
        assert inside, f"action {action} is outside its box"
    assert np.array_equal(course[:6], course[6:12]), "the same seed must give the same actions"
    assert not np.array_equal(course[:6], course[12:]), "another seed must give other actions"
    _check_agent_restores(make, first, observation_size)
    _check_agent_refuses_nan(make(0), observation_size)


def _episode(agent: Agent, observation_size: int, seed: int, num_decisions: int = 4) -> FloatArray:
    rng = np.random.default_rng(seed)
    observations = rng.random((num_decisions + 1, observation_size))
    actions = [agent.act(observation) for observation in observations[:-1]]
    agent.observe(_transitions(observations, actions), reward=float(rng.random()))
    agent.learn()
    return np.stack(actions)


def _transitions(observations: FloatArray, actions: Sequence[FloatArray]) -> list[Transition]:
    return [
        Transition(
            observation=observations[step],
            action_proposed=action,
            action_taken=action,
            next_observation=observations[step + 1],
            done=step == len(actions) - 1,
        )
        for step, action in enumerate(actions)
    ]


def _check_agent_restores(make: Callable[[int], Agent], agent: Agent, observation_size: int) -> None:
    state = _saved(agent)
    restored = make(99)
    restored.load_state_dict(state)
    for seed in range(6, 12):
        went_on = _episode(agent, observation_size, seed)
        assert np.array_equal(went_on, _episode(restored, observation_size, seed)), (
            "a restored agent must go on exactly as the saved one"
        )
    _check_same_state(agent, restored)


def _saved(learner: Learner) -> State:
    state: State = {name: array.copy() for name, array in learner.state_dict().items()}
    for name, array in state.items():
        assert isinstance(array, np.ndarray), f"state_dict()[{name!r}] must be a numpy array"
        assert array.dtype != object, f"state_dict()[{name!r}] must not hold Python objects"
    return state


def _check_same_state(learner: Learner, restored: Learner) -> None:
    end, restored_end = learner.state_dict(), restored.state_dict()
    assert end.keys() == restored_end.keys(), "what is restored must have the same state names"
    for name, array in end.items():
        assert np.array_equal(array, restored_end[name]), f"state {name!r} differs after restoring and going on"


def _check_agent_refuses_nan(agent: Agent, observation_size: int) -> None:
    observations = np.zeros((2, observation_size))
    transitions = _transitions(observations, [agent.act(observations[0])])
    try:
        agent.observe(transitions, reward=float("nan"))
    except SearchError:
        return
    raise AssertionError("a reward that is not a number must raise SearchError")


def check_proposer(
    make: Callable[[int], Proposer],
    *,
    num_decisions: int,
    action_space: Box,
    is_random: bool = True,
    num_episodes: int = 12,
) -> None:
    """Check a proposer: vectors in the box, repeatable from its seed, exact to save and restore at any moment.

    Args:
        make: builds a fresh proposer from a seed.
        num_decisions: actions per vector.
        action_space: the box of one action.
        is_random: whether another seed must give other vectors.
        num_episodes: how many vectors are told; as many come after restoring.

    Raises:
        AssertionError: the proposer breaks one of these.
    """
    first = make(0)
    course, same, other = (
        _vectors(proposer, action_space, range(num_episodes)) for proposer in (first, make(0), make(1))
    )
    for proposals in course:
        assert proposals.shape == (num_decisions, action_space.size), f"proposals have shape {proposals.shape}"
        inside = np.all(proposals >= action_space.low - 1e-9) and np.all(proposals <= action_space.high + 1e-9)
        assert inside, f"proposals {proposals} are outside their box"
    assert np.array_equal(course, same), "the same seed must give the same vectors"
    assert np.array_equal(course, other) != is_random, "another seed must give other vectors, unless nothing is random"
    _check_proposer_restores(make, first, action_space, num_episodes)
    proposer = make(0)
    transitions = _executed(proposer.propose(), action_space)
    _expect_search_error(lambda: proposer.observe(transitions, reward=float("nan")), "a reward that is not a number")


def _check_proposer_restores(
    make: Callable[[int], Proposer], proposer: Proposer, action_space: Box, num_episodes: int
) -> None:
    state = _saved(proposer)
    asked = proposer.propose()
    interrupted, restored = make(0), make(0)
    interrupted.load_state_dict(state)
    assert np.array_equal(interrupted.propose(), asked), "a vector asked for and not told must come out the same again"
    restored.load_state_dict(state)
    proposer.load_state_dict(state)
    later = range(num_episodes, 2 * num_episodes)
    went_on, again = _vectors(proposer, action_space, later), _vectors(restored, action_space, later)
    assert np.array_equal(went_on, again), "a restored proposer must go on exactly as the saved one"
    assert np.array_equal(went_on[0], asked), "a restored proposer must begin with the vector that was asked for"
    _check_same_state(proposer, restored)


def _vectors(proposer: Proposer, action_space: Box, seeds: Iterable[int]) -> list[FloatArray]:
    """Ask and tell: rewards fall with the distance to a quarter of the box, and carry some noise."""
    goal = action_space.low + (action_space.high - action_space.low) / 4.0
    vectors = []
    for seed in seeds:
        vectors.append(proposer.propose())
        noise = 0.01 * float(np.random.default_rng(seed).random())
        proposer.observe(
            _executed(vectors[-1], action_space), reward=noise - float(np.square(vectors[-1] - goal).mean())
        )
        proposer.learn()
    return vectors


def _executed(proposals: FloatArray, action_space: Box) -> list[Transition]:
    """An episode in which the budget rounded every action to tenths."""
    taken = np.round(proposals, 1).clip(action_space.low, action_space.high)
    return [
        Transition(
            observation=np.zeros(1),
            action_proposed=proposed,
            action_taken=executed,
            next_observation=np.zeros(1),
            done=step == len(proposals) - 1,
        )
        for step, (proposed, executed) in enumerate(zip(proposals, taken, strict=True))
    ]


def check_env(env: Env, *, seed: int = 0) -> None:
    """Check an environment: shapes, boxes, order of calls, and that the second walk fits the decoded policy.

    Raises:
        AssertionError: the environment breaks one of these.
    """
    _expect_search_error(lambda: env.step(env.action_space.low), "step before reset")
    rng = np.random.default_rng(seed)
    low, high = env.action_space.low, env.action_space.high
    proposals = rng.uniform(low, high, size=(env.num_decisions, env.action_space.size))
    _check_walk(env, proposals)
    _expect_search_error(lambda: env.step(proposals[0]), "step after the last decision")
    walked = env.decode()
    assert walked == env.decode(), "decode must give the same policy when asked again"
    _check_transitions(env, proposals)
    env.reset(seed=seed)
    _expect_search_error(env.decode, "decode before the last decision")
    _expect_search_error(env.transitions, "transitions before the last decision")
    assert env.decode(proposals) == walked, "a whole vector must decode to what the walk with it decodes to"
    _check_transitions(env, proposals)


def _check_walk(env: Env, proposals: FloatArray) -> None:
    observation = env.reset(seed=0)
    _check_inside(observation, env.observation_space)
    for step, proposal in enumerate(proposals):
        observation, done = env.step(proposal)
        _check_inside(observation, env.observation_space)
        assert done == (step == env.num_decisions - 1), f"done={done} after decision {step} of {env.num_decisions}"


def _check_transitions(env: Env, proposals: FloatArray) -> None:
    transitions = env.transitions()
    assert len(transitions) == env.num_decisions, "there must be one transition per decision"
    for step, transition in enumerate(transitions):
        last = step == env.num_decisions - 1
        _check_inside(transition.observation, env.observation_space)
        _check_inside(transition.action_taken, env.action_space)
        assert np.array_equal(transition.action_proposed, proposals[step]), "action_proposed must be the proposal"
        assert transition.done == last, f"transition {step} has done={transition.done}"
        expected = np.zeros(env.observation_space.size) if last else transitions[step + 1].observation
        assert np.array_equal(transition.next_observation, expected), f"next_observation of transition {step} is wrong"


def _check_inside(values: FloatArray, box: Box) -> None:
    assert values.shape == (box.size,), f"expected shape ({box.size},), got {values.shape}"
    assert np.all(values >= box.low - 1e-9), f"{values} is below its box {box}"
    assert np.all(values <= box.high + 1e-9), f"{values} is above its box {box}"


def _expect_search_error(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except SearchError:
        return
    raise AssertionError(f"{what} must raise SearchError")


def check_criterion_without_norm(criterion: Criterion) -> None:
    """Check that a criterion either works without a norm or says so with ``PolicyError``.

    Raises:
        AssertionError: it does neither.
    """
    member = MemberView(torch.ones(3, 2), 0, ((0,), (1,), (2,)), None)
    try:
        scores = criterion([member], 0)
    except PolicyError:
        return
    assert scores.shape == (3,), f"scores must have shape (3,), got {tuple(scores.shape)}"
