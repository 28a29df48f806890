"""What each part of the agents is worth: toys whose optimum is solved exactly, or a real ResNet-20.

The toy: layers that matter and cost differently, concave gains, one budget. What is measured collapses where too much
is missing, as accuracy does, and is noisy; what counts is the true gain of the plan that measured best:
`share_of_optimum` is 0 for the same ratio everywhere and 1 for the optimum over all channel counts, found by
mixed-integer programming. `last_share` is the mean over the last 20 trials. Every method has the same number of trials
and, but for he2018, the same decoding; he2018 explores as the recipe does. A method's name is the recipe's, then the
one option that differs.

    python benchmarks/agent_ablation.py
    python benchmarks/agent_ablation.py --network resnet20 --data DATA_FOLDER [--methods ...]

The second form searches on CIFAR-10 (1,000-image trials) and appends `best_trial_top1`; DATA_FOLDER as in main_job.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import block_diag, csr_matrix, hstack

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, print_rows

from tersenet import data, models
from tersenet.agents import CEM, DDPG, CEMConfig, DDPGConfig, PlanAgent, PlanConfig, RandomAgent
from tersenet.core.protocols import Agent, FloatArray, Proposer
from tersenet.embed import group_features
from tersenet.envs import Budget, ChannelDecisions, ChannelSpace, DecoderName, LayerwiseEnv, Limit
from tersenet.evaluators import FreshEvaluator
from tersenet.graph import cost_table, trace
from tersenet.recipes import ChannelConfig, he2018, make_space
from tersenet.recipes.recipe import amc_noise
from tersenet.testing.toy_budget import BilinearCost, toy_budget, toy_space

TRIALS = 100
WARMUP = 20
LAST = 20
DECISIONS = 12
CHANNELS = 32
LAYERWISE: dict[str, dict[str, object]] = {
    "layerwise": {},
    "layerwise-curves": {"critic": "curves"},
    "layerwise-joint": {"critic": "joint"},
    "layerwise-spread": {"reward_scale": "spread"},
    "layerwise-off_budget": {"on_budget": False},
    "layerwise-judged_by_mean": {"judged_by": "mean"},
    "layerwise-one_member": {"num_members": 1},
    "layerwise-many_updates": {"updates": 36},
}
HE2018: dict[str, tuple[DecoderName, dict[str, object]]] = {
    "he2018": ("wall", {}),
    "he2018-no_bootstrap": ("wall", {"bootstrap": False}),
    "he2018-level": ("level", {}),
    "he2018-level_no_bootstrap": ("level", {"bootstrap": False}),
}
METHODS = (*LAYERWISE, *HE2018, "cem", "random")


class Problem:
    """An environment per decoder, and what its policies measure."""

    def __init__(self, space: ChannelSpace, budget: Budget, features: FloatArray) -> None:
        self._parts = (space, budget, features)
        self.space = space

    def env(self, decoder: DecoderName) -> LayerwiseEnv:
        """A fresh environment."""
        space, budget, features = self._parts
        ids = [str(index) for index in range(space.num_decisions)]
        return LayerwiseEnv(
            space,
            budget,
            features,
            decisions=ChannelDecisions(ids, space.num_channels, criterion="l1"),
            decoder=decoder,
        )

    def measure(self, ratios: FloatArray) -> float:
        """Reward of executed ratios, shape (num_decisions,)."""
        raise NotImplementedError


class CollapsingToy(Problem):
    """Layers of 32 channels with gains ``importance * (1 - (1 - ratio)^2)`` and unequal costs, at half the cost."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._importance = rng.permutation(np.geomspace(0.05, 1.0, DECISIONS))
        self._costs = rng.permutation(np.geomspace(0.4, 2.5, DECISIONS))
        self._noise = np.random.default_rng(seed + 1)
        space = toy_space([CHANNELS] * DECISIONS)
        self._budget = toy_budget(space, BilinearCost(0.0, self._costs, np.zeros((DECISIONS, DECISIONS))), 0.5)
        super().__init__(space, self._budget, np.stack([np.linspace(0.0, 1.0, DECISIONS), self._costs / 2.5], axis=1))
        self.uniform = self.gain(self.env("level").executed(np.ones((DECISIONS, 1)))[:, 0])
        self.optimum = self._solved()

    def gain(self, ratios: FloatArray) -> float:
        """The true gain, between 0 and 1."""
        return float(self._importance @ (1.0 - (1.0 - ratios) ** 2) / self._importance.sum())

    def measure(self, ratios: FloatArray) -> float:
        """A curve of the gain that flattens towards the optimum, and noise of half a point of a hundred."""
        relative = (self.gain(ratios) - self.uniform) / (self.optimum - self.uniform)
        return float(1.0 / (1.0 + np.exp(-2.0 * relative)) + 0.005 * self._noise.standard_normal())

    def _solved(self) -> float:
        counts = np.arange(int(self.space.min_kept[0]), CHANNELS + 1)
        curve = 1.0 - (1.0 - counts / CHANNELS) ** 2
        gains = self._importance[:, None] * curve / self._importance.sum()
        one_each = block_diag([csr_matrix(np.ones((1, len(counts))))] * DECISIONS)
        spent = hstack([csr_matrix(cost * counts[None]) for cost in self._costs])
        solved = milp(
            -gains.ravel(),
            integrality=np.ones(gains.size),
            bounds=(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(spent, -np.inf, self._budget.limits[0].maximum),
            ],
        )
        return -float(solved.fun)


class RealNetwork(Problem):
    """A CIFAR-10 ResNet at half of its multiply-accumulates, 1,000-image trials."""

    def __init__(self, name: str, root: Path) -> None:
        model = models.build(name)
        models.load_weights(model, root / "weights" / f"{name}_cifar10.safetensors")
        cifar = data.cifar10(root / "cifar10")
        graph = trace(model, torch.zeros(2, 3, 32, 32))
        space = make_space(graph, ChannelConfig())
        self._ids = [graph.channel_groups[int(index)].group_id for index in space.indices]
        limit = Limit(
            kind="macs", table=cost_table(graph, "macs"), maximum=0.5 * graph.macs, original=float(graph.macs)
        )
        self._real = (space, Budget(limits=(limit,)), group_features(graph, self._ids))
        super().__init__(*self._real)
        self._evaluator = FreshEvaluator(model, graph, cifar.train, cifar.search, num_trial_samples=1000, seed=0)

    def measure(self, ratios: FloatArray) -> float:
        """Accuracy as a share."""
        space, budget, features = self._real
        env = LayerwiseEnv(
            space,
            budget,
            features,
            decisions=ChannelDecisions(self._ids, space.num_channels, criterion="l1"),
            decoder="level",
        )
        policy = env.decode(ratios[:, None])
        return self._evaluator.evaluate(policy).metrics.quality / 100.0


def proposer_for(method: str, problem: Problem, *, seed: int, trials: int) -> tuple[LayerwiseEnv, Agent | Proposer]:
    """The environment and the agent of a method."""
    decoder = HE2018[method][0] if method in HE2018 else "level"
    env = problem.env(decoder)
    schedule = {"num_trials": trials, "warmup_trials": trials * WARMUP // TRIALS}
    if method in LAYERWISE:
        config = PlanConfig.model_validate(schedule | LAYERWISE[method])
        return env, PlanAgent(config, features=env.features, action_space=env.action_space, space=env, seed=seed)
    if method in HE2018:
        num_warmup = he2018.num_warmup_of(trials)
        explores = {"warmup_trials": num_warmup, "noise_decay_until": amc_noise(num_warmup, trials=trials)}
        ddpg = DDPGConfig.model_validate(schedule | explores | HE2018[method][1])
        size = env.observation_space.size
        return env, DDPG(ddpg, observation_size=size, action_space=env.action_space, seed=seed)
    if method == "cem":
        return env, CEM(CEMConfig(), num_decisions=env.num_decisions, action_space=env.action_space, seed=seed)
    return env, RandomAgent(env.action_space, seed=seed)


def search(env: LayerwiseEnv, agent: Agent | Proposer, problem: Problem, trials: int) -> tuple[FloatArray, FloatArray]:
    """Executed ratios, shape (trials, num_decisions), and what they measured, shape (trials,)."""
    plans, measured = [], []
    for _ in range(trials):
        if isinstance(agent, Proposer):
            env.decode(agent.propose())
        else:
            observation, done = env.reset(seed=0), False
            while not done:
                observation, done = env.step(agent.act(observation))
        transitions = env.transitions()
        plans.append(np.concatenate([transition.action_taken for transition in transitions]))
        measured.append(problem.measure(plans[-1]))
        agent.observe(transitions, reward=measured[-1])
        agent.learn()
    return np.stack(plans), np.array(measured)


def toy_row(method: str, seed: int) -> dict[str, object]:
    """One search on one toy."""
    toy = CollapsingToy(seed)
    begin = time.process_time()
    plans, measured = search(*proposer_for(method, toy, seed=seed, trials=TRIALS), toy, TRIALS)
    shares = [(toy.gain(plan) - toy.uniform) / (toy.optimum - toy.uniform) for plan in plans]
    return {
        "network": "toy",
        "data": f"{DECISIONS} layers of {CHANNELS} channels",
        "method": method,
        "seed": seed,
        "share_of_optimum": shares[int(np.argmax(measured))],
        "share_half_way": shares[int(np.argmax(measured[: TRIALS // 2]))],
        "last_share": float(np.mean(shares[-LAST:])),
        "num_trials": TRIALS,
        "agent_seconds": round(time.process_time() - begin, 1),
    }


def real_row(problem: RealNetwork, name: str, method: str, seed: int, trials: int) -> dict[str, object]:
    """One search on a real network."""
    begin = time.perf_counter()
    _, measured = search(*proposer_for(method, problem, seed=seed, trials=trials), problem, trials)
    return {
        "network": name,
        "data": "cifar10",
        "method": method,
        "seed": seed,
        "best_trial_top1": 100.0 * float(measured.max()),
        "best_half_way": 100.0 * float(measured[: trials // 2].max()),
        "last_top1": 100.0 * float(measured[-LAST:].mean()),
        "num_trials": trials,
        "search_seconds": round(time.perf_counter() - begin, 1),
    }


def medians(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median and worst seed of the toy's rows, per method."""
    found = []
    for method in METHODS:
        shares = [row for row in rows if row["method"] == method and row["network"] == "toy"]
        if shares:
            columns = ("share_half_way", "share_of_optimum", "last_share")
            values = {name: [float(str(row[name])) for row in shares] for name in columns}
            line: dict[str, object] = {"method": method, "seeds": len(shares)}
            line |= {name: statistics.median(values[name]) for name in columns}
            found.append(line | {"worst_seed": min(values["share_of_optimum"])})
    return found


def main() -> None:
    """Run what is missing, print all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--network", default="toy", choices=["toy", "resnet20", "resnet56"])
    parser.add_argument("--trials", type=int, default=300, help="of the real network; the toy has 100")
    parser.add_argument("--data", type=Path, default=os.environ.get("TERSENET_DATA"), help="folder of the data")
    arguments = parser.parse_args()
    file = ResultFile("agent_ablation", command="python benchmarks/agent_ablation.py")
    problem = None
    if arguments.network != "toy":
        if arguments.data is None:
            parser.error("give --data, or set TERSENET_DATA")
        problem = RealNetwork(arguments.network, arguments.data)
    for seed in arguments.seeds:
        for method in arguments.methods:
            if not file.has(network=arguments.network, method=method, seed=seed):
                begin = time.perf_counter()
                row = (
                    toy_row(method, seed)
                    if problem is None
                    else real_row(problem, arguments.network, method, seed, arguments.trials)
                )
                file.add(row, seconds=time.perf_counter() - begin)
    print_rows(
        medians(file.rows), ("method", "seeds", "share_half_way", "share_of_optimum", "worst_seed", "last_share")
    )
    real = [row for row in file.rows if row["network"] != "toy"]
    if real:
        print_rows(real, ("network", "method", "seed", "best_half_way", "best_trial_top1", "last_top1", "num_trials"))


if __name__ == "__main__":
    main()
