"""What batch-norm statistics cost a whole network when they are measured anew, on plain and on augmented inputs.

Nothing is cut, so any loss is the measurement's own, and every trial of a search would have it. The statistics come
from as many training images as a trial uses (500), drawn with three seeds; top-1 is of the first 2,000 search images,
which these networks have learned. Prints all rows and writes benchmarks/results/recalibration.json.

    python benchmarks/recalibration.py --data DATA_FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows

from tersenet import data, models
from tersenet.data import Data
from tersenet.data.splits import Inputs
from tersenet.graph import duplicate
from tersenet.measurement import Task, measure_quality
from tersenet.train import recalibrate

NETWORKS = ("resnet20", "resnet32", "resnet56")
SEEDS = (0, 1, 2)
NUM_INPUTS = 500
NUM_SEARCH = 2000


def training_inputs(cifar: Data, *, seed: int, augment: bool) -> list[Inputs]:
    """As many as a trial measures statistics on, in batches of 100."""
    batches = cifar.train.source.batches(100, shuffle_seed=seed, augment=augment)
    return [next(batches)[0] for _ in range(NUM_INPUTS // 100)]


def search_top1(model: nn.Module, cifar: Data, *, first: int) -> float:
    """Top-1 in percent of the first images of the search split."""
    top1 = measure_quality(model.eval(), cifar.search.source, Task(), split="search", first=first).top1
    assert top1 is not None
    return top1


def main() -> None:
    """Measure what is missing, print all rows."""
    given = parsed(command_line(__doc__))
    file = ResultFile("recalibration", command="python benchmarks/recalibration.py")
    cifar = data.cifar10(given.data / "cifar10")

    for network in NETWORKS:
        if file.has(network=network):
            continue
        started = time.perf_counter()
        model = models.build(network).eval()
        models.load_weights(model, given.data / "weights" / f"{network}_cifar10.safetensors")
        whole = search_top1(model, cifar, first=NUM_SEARCH)
        row: dict[str, object] = {"network": network, "inputs": NUM_INPUTS, "top1_as_it_came": whole}
        for augment in (False, True):
            left = []
            for seed in SEEDS:
                other = duplicate(model)
                recalibrate(other, training_inputs(cifar, seed=seed, augment=augment))
                left.append(search_top1(other, cifar, first=NUM_SEARCH))
            row["top1_augmented" if augment else "top1_plain"] = left
        file.add(row, seconds=time.perf_counter() - started)
    print_rows(file.rows, ("network", "inputs", "top1_as_it_came", "top1_plain", "top1_augmented"))


if __name__ == "__main__":
    main()
