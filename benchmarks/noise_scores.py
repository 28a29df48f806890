"""What noise learned at different learning rates says of weights and channels, beside their size, on CIFAR-10.

A copy of a trained ResNet is trained with noise for some epochs at some learning rate, as `zhan2019` does before its
search; then the network as it came is pruned, un-tuned. Units: one threshold on the learned scores, over all layers,
leaves a share of them (a fifth of the single weights, half of the 2-D kernels; `shares` says how many per layer), and
as many per layer stay by size (l1): `top1_learned` and `top1_l1` differ in which, not in how many. Channels: each
group loses a tenth, by the noise on them and by l1. Statistics are measured anew on 500 augmented training images;
top-1 is of 4,000 images of the search split, which these networks have learned: only differences within a row mean
something. Prints all rows and writes benchmarks/results/noise_scores.json.

    python benchmarks/noise_scores.py --data DATA_FOLDER --work WORK_FOLDER [--network N] [--jobs UNIT:RATE:EPOCHS ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from recalibration import search_top1, training_inputs
from rows import ResultFile, command_line, parsed, print_rows

from tersenet import data, models
from tersenet.core.policy import ChannelDecision, KernelDecision, KernelUnit, Policy
from tersenet.criteria import Learned
from tersenet.data import Data
from tersenet.data.splits import Inputs
from tersenet.graph import ModelGraph, duplicate, trace
from tersenet.recipes.zhan2019 import Zhan2019Config
from tersenet.train import TrainConfig, learn_noise, recalibrate
from tersenet.transforms import make_plan, simulate

LEFT: dict[KernelUnit, float] = {"element": 0.2, "kernel": 0.5}
CUT = 0.1
NUM_SEARCH = 4000
JOBS = [f"{unit}:{rate}" for unit in LEFT for rate in ("0.002:1", "0.005:1", "0.02:1", "0.005:3", "0.02:3")]


def shares_of(learned: Learned, left: float) -> dict[str, float]:
    """Share of every layer's units at or above the score that leaves ``left`` of all units."""
    every = torch.cat([scores.flatten() for scores in learned.units.values()])
    least = torch.topk(every, round(left * len(every))).values[-1]
    return {
        name: max(1.0 / scores.numel(), float((scores >= least).float().mean()))
        for name, scores in learned.units.items()
    }


def top1_of(
    model: nn.Module, graph: ModelGraph, policy: Policy, learned: Learned, inputs: list[Inputs], cifar: Data
) -> float:
    """Of the network pruned by ``policy``, un-tuned."""
    pruned = simulate(model, graph, make_plan(model, graph, policy, seed=0, learned=learned))
    recalibrate(pruned, inputs)
    return search_top1(pruned, cifar, first=NUM_SEARCH)


def row_of(
    model: nn.Module, unit: KernelUnit, learning_rate: float, epochs: int, cifar: Data, checkpoint: Path
) -> dict[str, object]:
    """Train a copy with noise, prune the network in four ways."""
    graph = trace(model, cifar.example_inputs())
    calibration = training_inputs(cifar, seed=0, augment=True)
    learned = learn_noise(
        duplicate(model),
        graph,
        cifar.train,
        cifar.search,
        TrainConfig(seed=0, epochs=epochs, learning_rate=learning_rate, distill_weight=0.7),
        calibration=calibration,
        unit=unit,
        teacher=model,
        checkpoint=checkpoint,
    )
    shares = shares_of(learned, LEFT[unit])
    groups = [group.group_id for group in graph.channel_groups if group.prunable]

    def of_units(name: str) -> float:
        kernels = {
            layer: KernelDecision(unit=unit, keep_ratio=share, criterion=name) for layer, share in shares.items()
        }
        return top1_of(model, graph, Policy(kernels=kernels), learned, calibration, cifar)

    def of_channels(name: str) -> float:
        channels = {group: ChannelDecision(pruning_ratio=CUT, criterion=name) for group in groups}
        return top1_of(model, graph, Policy(channels=channels), learned, calibration, cifar)

    return {
        "top1_learned": of_units(Zhan2019Config(unit=unit).criterion_of_units),
        "top1_l1": of_units("l1"),
        "top1_channels_learned": of_channels("information_dropout"),
        "top1_channels_l1": of_channels("l1"),
        "shares": {name: round(share, 3) for name, share in shares.items()},
    }


def main() -> None:
    """Run what is missing, print all rows."""
    parser = command_line(__doc__, work="runs/noise_scores", jobs=("UNIT:RATE:EPOCHS", JOBS))
    parser.add_argument("--network", default="resnet20")
    given = parsed(parser)
    file = ResultFile("noise_scores", command="python benchmarks/noise_scores.py")
    cifar = data.cifar10(given.data / "cifar10")
    for job in given.jobs:
        wanted, _, how = job.partition(":")
        rate, _, epochs = how.partition(":")
        unit = next((known for known in LEFT if known == wanted), None)
        if unit is None:
            parser.error(f"--jobs {job}: the units are {', '.join(LEFT)}")
        facts: dict[str, object] = {
            "network": given.network,
            "unit": unit,
            "learning_rate": float(rate),
            "epochs": int(epochs),
            "seed": 0,
        }
        if file.has(**facts):
            continue
        started = time.perf_counter()
        model = models.build(given.network).eval()
        models.load_weights(model, given.data / "weights" / f"{given.network}_cifar10.safetensors")
        checkpoint = given.work / f"{given.network}-{unit}-{rate}-{epochs}" / "noise.pt"
        row = row_of(model, unit, float(rate), int(epochs), cifar, checkpoint)
        file.add({**facts, "left": LEFT[unit], **row}, seconds=time.perf_counter() - started)
    columns = ("network", "unit", "learning_rate", "epochs", "left", "top1_learned", "top1_l1")
    print_rows(file.rows, (*columns, "top1_channels_learned", "top1_channels_l1"))


if __name__ == "__main__":
    main()
