"""Both stages of Zhan 2019 on a VGG-16 for ImageNet: does all of it run, in what memory and time, and what is counted.

The weights are random, so the accuracies mean nothing. The images are 1,000 of ImageNet, one per class, read as any
folder of images is: half for training (the first of them are used), a quarter each for search and test.

- `seconds_per_trial`: median over the trials of a stage. `peak_gigabytes`: of the whole process, which after a stop is
  the one that went on.
- `params_ratio`, `macs_ratio`: what a dense runtime has left; `nonzero_*_ratio` count weights that are not zero.
- `compression_ratio`: fp32 parameters over the packed file. `paper_ratio`: 32 bits per convolution weight of the
  original over those of the indices left, no codebooks and no linear layers; never to be mixed with bytes.

Prints both rows (after stage 1, and what is delivered) and writes benchmarks/results/zhan2019_large.json; a run that
was stopped goes on where it was.

    python benchmarks/zhan2019_large.py --data DATA_FOLDER --work WORK_FOLDER

DATA_FOLDER holds imagenet-sample/imagenet-sample-1000.tar.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows
from zhan2019 import costs

from tersenet import Target, data, models
from tersenet.api import CompressOptions, compress
from tersenet.core.summary import TrialPoint
from tersenet.data import First, TrainSplit
from tersenet.train.variational_fit import BETA

IMAGENET_IMAGES = 1_281_167
"""Training images that the cost of noise is told over; with 64 of them its weight has to fall likewise."""

COLUMNS = (
    "network", "method", "num_trials", "seconds_per_trial", "peak_gigabytes", "params_ratio", "nonzero_params_ratio",
    "macs_ratio", "nonzero_macs_ratio", "size_bytes", "compression_ratio", "paper_ratio",
)  # fmt: skip


def seconds_per_trial(trials: Sequence[TrialPoint]) -> float:
    """Median."""
    return round(statistics.median(trial.seconds for trial in trials), 1)


def main() -> None:
    """Run it if its rows are missing, print them."""
    parser = command_line(__doc__, work="runs/zhan2019_large")
    parser.add_argument("--trials", type=int, default=6, help="per stage")
    parser.add_argument("--trial-images", type=int, default=64)
    parser.add_argument("--images", type=int, default=64, help="training images")
    parser.add_argument("--batch-size", type=int, default=8, help="of training")
    parser.add_argument("--max-size-ratio", type=float, default=0.01)
    given = parsed(parser)
    file = ResultFile("zhan2019_large", command="python benchmarks/zhan2019_large.py")
    facts: dict[str, object] = {
        "network": "vgg16",
        "unit": "kernel",
        "seed": 0,
        "train_images": given.images,
        "trial_images": given.trial_images,
        "batch_size": given.batch_size,
        "max_size_ratio": given.max_size_ratio,
        "num_trials": given.trials,
    }
    if not file.has(**facts):
        images = data.image_folder(given.data / "imagenet-sample" / "imagenet-sample-1000.tar")
        few = replace(
            images,
            train=TrainSplit(First(images.train.source, given.images)),
            num_trial_samples=given.trial_images,
        )
        torch.manual_seed(0)
        run = compress(
            models.build("vgg16"),
            data=few,
            target=Target(max_params_ratio=1 / 8.7, max_size_ratio=given.max_size_ratio),
            recipe="zhan2019",
            seed=0,
            options=CompressOptions(
                trials=given.trials,
                finetune_epochs=1,
                controls=(),
                out=given.work / "vgg16",
                model_name="vgg16",
                weights_saw_search=False,
                command="python benchmarks/zhan2019_large.py " + " ".join(sys.argv[1:]),
                recipe_options={
                    "unit": facts["unit"],
                    "max_flops_ratio": 0.3,
                    "lower_bound": 0.1,
                    "noise_epochs": 1,
                    "prune_epochs": 1,
                    "beta": BETA * given.images / IMAGENET_IMAGES,
                    "finetune_batch_size": given.batch_size,
                },
            ),
        ).run
        first = run.first_stage
        assert first is not None
        shared = {**facts, "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}
        for method, trials, left, seconds, paper_ratio in (
            ("zhan2019-stage1", first.trials, first.tuned, first.seconds, None),
            ("zhan2019", run.trials, run.compressed, run.seconds, run.paper_ratio),
        ):
            row = {
                "method": method,
                **costs(left, run.dense, run.original_bytes),
                "paper_ratio": paper_ratio,
                "seconds_per_trial": seconds_per_trial(trials),
                "search_seconds": seconds["search"],
                "finetune_seconds": seconds["finetune"],
            }
            file.add({**shared, **row}, seconds=sum(seconds.values()))
    print_rows(file.rows, COLUMNS)


if __name__ == "__main__":
    main()
