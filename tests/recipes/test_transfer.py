"""Agents that were trained on one network and begin the search on another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import recipes
from tersenet.agents import read_agent, write_agent
from tersenet.core.policy import Policy
from tersenet.core.target import CostKind
from tersenet.envs import Budget, Limit
from tersenet.errors import WeightsError
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.models import build
from tersenet.recipes import Problem
from tersenet.search import Method
from tersenet.testing.toy_joins import OptionAResNet

pytest.importorskip("torch_geometric", exc_type=ImportError)


@pytest.fixture(scope="module")
def graphs() -> tuple[ModelGraph, ModelGraph]:
    """Four decisions, and three."""
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8)), trace(OptionAResNet(), torch.randn(2, 3, 16, 16))


def a_method(
    graph: ModelGraph, name: str, *, seed: int = 0, agent: Path | None = None, kinds: int = 1, **options: object
) -> Method:
    recipe = recipes.get(name)
    config = recipe.configure({"trials": 30, "pretrain_steps": 2, **options})
    bounds: tuple[tuple[CostKind, float, float], ...] = (
        ("macs", 0.6, float(graph.macs)),
        ("params", 0.7, float(graph.num_params)),
    )
    limits = tuple(
        Limit(kind=kind, table=cost_table(graph, kind), maximum=share * original, original=original)
        for kind, share, original in bounds[:kinds]
    )
    problem = Problem(
        graph=graph,
        space=recipes.make_space(graph, config),
        budget=Budget(limits=limits),
        seed=seed,
        agent=None if agent is None else read_agent(agent),
    )
    return recipe.build(problem, config)


def asked(method: Method) -> Policy:
    observation, done = method.env.reset(seed=0), False
    while not done:
        observation, done = method.env.step(method.agent.act(observation))  # type: ignore[union-attr]
    return method.env.decode()


@pytest.mark.slow
@pytest.mark.parametrize("state", ["learned", "hand_made"])
@pytest.mark.parametrize("name", ["yu2021", "gnnrl2022"])
def test_the_first_trial_on_another_network_is_what_the_agent_decides_unseen(
    name: str, state: str, graphs: tuple[ModelGraph, ModelGraph], tmp_path: Path
) -> None:
    first, second = graphs
    source = a_method(first, name, state=state)
    rng = np.random.default_rng(0)
    for _ in range(12):  # long enough to learn something
        asked(source)
        source.agent.observe(source.env.transitions(), reward=float(rng.random()))
        source.agent.learn()
    write_agent(tmp_path / "a", source.agent.state_dict(), recipe=name, network="digits_cnn")
    found = [a_method(second, name, seed=seed, agent=tmp_path / "a", state=state) for seed in (0, 1)]
    assert all(method.num_warmup == 0 for method in found)
    policies = [asked(method) for method in found]
    assert policies[0] == policies[1]  # no chance in it
    trained, began = source.agent.state_dict(), found[0].agent.state_dict()
    kept = [key for key in trained if key.split(".")[0] in ("encoder", "actor", "critic")]
    assert any(key.startswith("encoder") for key in kept) == (state == "learned")
    assert all(np.array_equal(trained[key], began[key]) for key in kept)


def test_an_agent_of_another_number_of_bounds_is_refused(graphs: tuple[ModelGraph, ModelGraph], tmp_path: Path) -> None:
    source = a_method(graphs[0], "yu2021")
    write_agent(tmp_path / "a", source.agent.state_dict(), recipe="yu2021", network="")
    with pytest.raises(WeightsError, match="another number of bounds"):
        a_method(graphs[0], "yu2021", agent=tmp_path / "a", kinds=2)


def test_only_recipes_with_agents_that_fit_other_networks_transfer() -> None:
    assert {name for name in recipes.names() if recipes.get(name).transfers} == {"yu2021", "gnnrl2022"}
