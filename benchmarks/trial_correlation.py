"""Does what a trial measures predict what fine-tuning reaches? ResNet-20 on CIFAR-10 at half its MACs.

Twelve policies (the uniform one, seven random ones decoded by one level, four by AMC's wall) are fine-tuned for three
epochs with distillation; `top1` is that network's on the whole test split. Then every way to prepare the cut network of
a trial measures the same policies on the 1,000 trial images, and its ranks are compared with those of the tuned
networks (Spearman; the interval is a bootstrap over policies, 95 %). Prints both tables and writes
benchmarks/results/trial_correlation.json; goes on where it was stopped.

    python benchmarks/trial_correlation.py --data DATA_FOLDER
"""

from __future__ import annotations

import sys
import time
import typing
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows
from scipy.stats import spearmanr
from torch import nn

from tersenet import Policy, Target, data, models
from tersenet.api import CompressOptions
from tersenet.api.prepare import Prepared, prepare
from tersenet.evaluators import FreshEvaluator
from tersenet.evaluators.repair import RepairName
from tersenet.measurement import Task, measure_quality
from tersenet.recipes import Problem, make_env
from tersenet.train import TrainConfig, fit, recalibrate
from tersenet.transforms import make_plan, materialize

NETWORK = "resnet20"
EPOCHS = 3
NUM_POLICIES = {"uniform": 1, "level": 7, "wall": 4}
RECALIBRATION_SAMPLES = 2048
TRIAL_IMAGES = 1000


def policies(prepared: Prepared) -> list[tuple[str, int, Policy]]:
    """How each policy was drawn, its seed, and the policy; every one uses the budget up."""
    found = []
    for method, count in NUM_POLICIES.items():
        problem = Problem(graph=prepared.graph, space=prepared.space, budget=prepared.budget, seed=0)
        env = make_env(problem, prepared.config, decoder="wall" if method == "wall" else "level")
        for seed in range(count):
            drawn = np.random.default_rng([seed, len(method)]).uniform(size=(prepared.space.num_decisions, 1))
            found.append((method, seed, env.decode(np.full_like(drawn, 0.5) if method == "uniform" else drawn)))
    return found


def tuned_row(model: nn.Module, prepared: Prepared, cifar: data.Data, policy: Policy, work: Path) -> dict[str, object]:
    """Build and fine-tune the network of one policy; its accuracy on the test split."""
    small = materialize(model, make_plan(model, prepared.graph, policy, seed=0))
    samples = cifar.train.source.batches(256, shuffle_seed=0, first=RECALIBRATION_SAMPLES)
    recalibrate(small, (inputs for inputs, _ in samples))
    config = TrainConfig(epochs=EPOCHS, batch_size=128, learning_rate=0.02, distill_weight=0.7, device="cpu", seed=0)
    checkpoint = work / f"{policy.digest()}.pt"
    begin = time.perf_counter()
    fit(small, cifar.train, cifar.search, config, teacher=model, checkpoint=checkpoint)
    seconds = time.perf_counter() - begin
    metrics = measure_quality(small, cifar.test.source, Task(), split="test", device="cpu")
    return {
        "top1": metrics.top1,
        "macs_ratio": prepared.cost_ratios(policy)["macs"],
        "finetune_epochs": EPOCHS,
        "finetune_seconds": seconds,
        "policy": policy.digest(),
    }


def trial_row(model: nn.Module, prepared: Prepared, cifar: data.Data, repair: RepairName, file: ResultFile) -> None:
    """Measure every tuned policy as a trial would, and compare the ranks."""
    tuned = {row["policy"]: float(str(row["top1"])) for row in file.rows if row["table"] == "tuned"}
    begin = time.perf_counter()
    evaluator = FreshEvaluator(
        model,
        prepared.graph,
        cifar.train,
        cifar.search,
        num_trial_samples=TRIAL_IMAGES,
        seed=0,
        repair=repair,
    )
    setup_seconds = time.perf_counter() - begin
    measured = {
        policy.digest(): evaluator.evaluate(policy) for _, _, policy in policies(prepared) if policy.digest() in tuned
    }
    trials = np.array([evaluation.metrics.quality for evaluation in measured.values()])
    reached = np.array([tuned[digest] for digest in measured])
    low, high = bootstrap(trials, reached)
    row: dict[str, object] = {
        "table": "correlation",
        "network": NETWORK,
        "data": "cifar10",
        "method": repair,
        "seed": 0,
        "num_policies": len(trials),
        "rank_correlation": float(spearmanr(trials, reached).statistic),
        "lowest": low,
        "highest": high,
        "correlation": float(np.corrcoef(trials, reached)[0, 1]),
        "trial_top1_mean": float(trials.mean()),
        "trial_top1": trials.tolist(),
        "setup_seconds": setup_seconds,
        "trial_seconds": float(np.median([evaluation.seconds for evaluation in measured.values()])),
    }
    file.add(row, seconds=time.perf_counter() - begin)


def bootstrap(trials: np.ndarray, reached: np.ndarray) -> tuple[float, float]:
    """95 % interval of the rank correlation, policies drawn with replacement."""
    rng = np.random.default_rng(0)
    found: list[float] = []
    while len(found) < 2000:
        chosen = rng.integers(len(trials), size=len(trials))
        if len(set(reached[chosen])) > 2 and len(set(trials[chosen])) > 2:
            found.append(float(spearmanr(trials[chosen], reached[chosen]).statistic))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Tune what is missing, measure every way of a trial, print both tables."""
    arguments = parsed(command_line(__doc__, work="runs/trial_correlation"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    cifar = replace(data.cifar10(arguments.data / "cifar10"), num_trial_samples=TRIAL_IMAGES)
    model = models.build(NETWORK)
    models.load_weights(model, arguments.data / "weights" / f"{NETWORK}_cifar10.safetensors")
    options = CompressOptions(recipe_options={})
    target = Target(max_macs_ratio=0.5)
    prepared = prepare(model, cifar.example_inputs(), target=target, recipe="layerwise", options=options)
    file = ResultFile("trial_correlation", command="python benchmarks/trial_correlation.py")
    for method, seed, policy in policies(prepared):
        if not file.has(table="tuned", policy=policy.digest()):
            row = tuned_row(model, prepared, cifar, policy, arguments.work)
            fields = {"table": "tuned", "network": NETWORK, "data": "cifar10", "method": method, "seed": seed}
            file.add(fields | row, seconds=float(str(row["finetune_seconds"])))
            print_rows(file.rows[-1:], ("method", "seed", "top1", "macs_ratio", "finetune_seconds"))
    for repair in typing.get_args(RepairName):
        if not file.has(table="correlation", method=repair):
            trial_row(model, prepared, cifar, repair, file)
    print_rows((row for row in file.rows if row["table"] == "tuned"), ("method", "seed", "top1", "finetune_seconds"))
    print()
    columns = ("method", "num_policies", "rank_correlation", "lowest", "highest", "correlation", "trial_top1_mean")
    shown = (row for row in file.rows if row["table"] == "correlation")
    print_rows(shown, (*columns, "setup_seconds", "trial_seconds"))


if __name__ == "__main__":
    main()
