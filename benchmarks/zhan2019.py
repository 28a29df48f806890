"""Two stages on a CIFAR-10 VGG-16-BN: channels and kernels, then bits, beside controls and ablations.

The base is trained first, without the search split, by what `tersenet train` calls, with label smoothing. `top1_before`
is a dense twin: the base after the same further epochs, schedule and distillation as the compressed network. Each job
gives two rows: the network after stage 1 (`-stage1`, weights as fp16; zeros cost what other weights cost there) and the
delivered one. `params_ratio` and `macs_ratio` are what a dense runtime has left; `nonzero_*_ratio` count weights that
are not zero; `paper_ratio` is bits of convolution weights. `base_converged` is false where the base was trained for
fewer than 100 epochs or knows less than 93.0 %. The bound on parameters (`--max-nonzero-ratio`) is on those that are
not zero, as papers that prune inside kernels count; `--max-params-ratio` bounds those that a dense runtime holds.
Prints all rows and writes benchmarks/results/zhan2019.json; runs that were stopped go on where they were, rows that are
there already are kept.

    python benchmarks/zhan2019.py --data DATA_FOLDER --work WORK_FOLDER [--width 0.5] [--jobs VARIANT:SEED ...]

Variants: agent (both stages by agents, single weights inside kernels), uniform, random, cem (the same with a control in
both stages, at equal evaluations and budgets, but that bytes are bounded by those that the agent of the same seed
delivered, whose row must be there); channels, kernels (ablations: stage 1 decides one of both); magnitude
(ablation: weights inside kernels go by size, channels by noise); shares (ablation: the agent asks for a layer's share,
not for a threshold); kernel, position, filter_position (other units).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows, run_fields, size_fields

from tersenet import Target, data
from tersenet.api import CompressOptions, Result, TrainOptions, compress, evaluate, train
from tersenet.core.metrics import Metrics
from tersenet.data import Data, First, TrainSplit
from tersenet.measurement import measure_quality
from tersenet.models.vgg import VGG, VGG16
from tersenet.recipes.zhan2019 import Zhan2019Config
from tersenet.train import TrainConfig, fit

UNIT = "element"
"""What goes inside kernels where the variant does not say, as in the second version of the paper."""

VARIANTS: dict[str, dict[str, object]] = {
    "agent": {},
    "uniform": {"agent": "uniform"},
    "random": {"agent": "random"},
    "cem": {"agent": "cem"},
    "channels": {"prunes": "channels"},
    "kernels": {"prunes": "kernels"},
    "magnitude": {"unit_criterion": "l1"},
    "shares": {"unit_scale": "share"},
    "kernel": {"unit": "kernel"},
    "position": {"unit": "position"},
    "filter_position": {"unit": "filter_position"},
}
CONVERGED_TOP1 = 93.0
CONVERGED_EPOCHS = 100
LEARNING_RATE = 0.005
"""Highest in training with noise and in the fine-tuning after stage 2."""

PRUNE_LEARNING_RATE = 0.03
"""Highest in the fine-tuning after stage 1: it undoes what the cut network still knows, and finds more in the end."""

DISTILL_WEIGHT = 0.7


def vgg16_bn(width: float) -> nn.Module:
    """VGG-16-BN for CIFAR-10 with every number of channels times ``width``; 14,724,042 parameters at 1."""
    layers: list[nn.Module] = []
    channels = 3
    for full in VGG16[:-1]:  # the last pool is the average pool
        if full is None:
            layers.append(nn.MaxPool2d(2))
            continue
        wanted = round(full * width)
        layers += [nn.Conv2d(channels, wanted, 3, padding=1, bias=False), nn.BatchNorm2d(wanted), nn.ReLU(inplace=True)]
        channels = wanted
    return VGG(nn.Sequential(*layers), nn.AvgPool2d(2), nn.Linear(channels, 10))


def network_name(given: argparse.Namespace) -> str:
    """``vgg16_bn_cifar`` and its width."""
    return "vgg16_bn_cifar" + ("" if given.width == 1.0 else f"_x{given.width:g}")


def opened(given: argparse.Namespace) -> Data:
    """CIFAR-10, or as much of its training images as was asked for."""
    cifar = replace(data.cifar10(given.data / "cifar10", cutout=given.cutout), num_trial_samples=given.trial_images)
    return replace(cifar, train=TrainSplit(First(cifar.train.source, given.images))) if given.images else cifar


def base_folder(given: argparse.Namespace) -> Path:
    """Where the base, its dense twins and its compressed networks are kept."""
    name = f"base-{given.width:g}-{given.base_epochs}-{given.base_label_smoothing:g}-{given.cutout}-{given.images}"
    return Path(given.work) / name


def trained_base(given: argparse.Namespace, cifar: Data) -> tuple[nn.Module, float]:
    """The base and its accuracy on the test split."""
    torch.manual_seed(0)
    model = vgg16_bn(given.width)
    options = TrainOptions(
        device=given.device, model_name=network_name(given), label_smoothing=given.base_label_smoothing
    )
    result = train(
        model,
        data=cifar,
        seed=0,
        epochs=given.base_epochs,
        out=base_folder(given),
        options=options,
    )
    assert result.metrics.top1 is not None
    return model.eval(), result.metrics.top1


def dense_twin(given: argparse.Namespace, cifar: Data, base: nn.Module, seed: int) -> float:
    """Accuracy of the base after the further epochs of a compressed network, trained and taught like that."""
    model = vgg16_bn(given.width)
    model.load_state_dict(base.state_dict())
    stages = (
        ("noise", given.noise_epochs, LEARNING_RATE),
        ("prune", given.prune_epochs, PRUNE_LEARNING_RATE),
        ("finetune", given.epochs, LEARNING_RATE),
    )
    for stage, epochs, learning_rate in stages:
        fit(
            model,
            cifar.train,
            cifar.search,
            TrainConfig(
                epochs=epochs,
                batch_size=128,
                learning_rate=learning_rate,
                distill_weight=DISTILL_WEIGHT,
                device=given.device,
                seed=seed,
            ),
            teacher=base,
            checkpoint=base_folder(given) / f"twin-{seed}" / f"{stage}-{epochs}.pt",
        )
    top1 = measure_quality(model, cifar.test.source, TrainOptions().task, split="test", device=given.device).top1
    assert top1 is not None
    return top1


def bounds_of(given: argparse.Namespace, file: ResultFile, variant: str, facts: dict[str, object]) -> Target:
    """What a variant must keep to."""
    if "agent" not in VARIANTS[variant]:  # no control
        return Target(max_size_ratio=given.max_size_ratio, max_params_ratio=given.max_params_ratio)
    agent = file.first(**{**facts, "method": "zhan2019"})
    if agent is None:
        raise SystemExit(f"{variant}:{facts['seed']} may have the bytes of agent:{facts['seed']}; run that one first.")
    return Target(max_size_bytes=int(str(agent["size_bytes"])), max_params_ratio=given.max_params_ratio)


def run_once(
    given: argparse.Namespace, cifar: Data, base: nn.Module, variant: str, seed: int, target: Target, command: str
) -> Result:
    """One compression."""
    return compress(
        base,
        data=cifar,
        target=target,
        recipe="zhan2019",
        seed=seed,
        options=CompressOptions(
            trials=given.trials,
            finetune_epochs=given.epochs,
            controls=(),
            device=given.device,
            out=base_folder(given) / f"{variant}-{seed}-{round(1 / given.max_size_ratio)}",
            model_name=network_name(given),
            weights_saw_search=False,
            command=command,
            recipe_options={
                "max_flops_ratio": given.max_flops_ratio,
                "max_nonzero_ratio": given.max_nonzero_ratio,
                "unit": UNIT,
                "lower_bound": given.lower_bound,
                "units_lower_bound": given.units_lower_bound,
                "reach": given.reach,
                "noise_epochs": given.noise_epochs,
                "noise_learning_rate": LEARNING_RATE,
                "prune_epochs": given.prune_epochs,
                "prune_learning_rate": PRUNE_LEARNING_RATE,
                "finetune_learning_rate": LEARNING_RATE,
                "distill_weight": DISTILL_WEIGHT,
                **VARIANTS[variant],
            },
        ),
    )


def costs(metrics: Metrics, dense: Metrics, original_bytes: int) -> dict[str, object]:
    """What is left of every cost."""
    assert dense.macs is not None
    assert dense.num_params is not None
    return {
        "macs_ratio": (metrics.macs or 0) / dense.macs,
        "nonzero_macs_ratio": (metrics.nonzero_macs or metrics.macs or 0) / dense.macs,
        "num_params": dense.num_params,
        "params_ratio": (metrics.num_params or 0) / dense.num_params,
        "nonzero_params_ratio": (metrics.num_nonzero or metrics.num_params or 0) / dense.num_params,
        **size_fields(metrics, original_bytes),
    }


def rows_of(
    given: argparse.Namespace, result: Result, cifar: Data, facts: dict[str, object]
) -> list[dict[str, object]]:
    """The row before stage 2, and that of the delivered network."""
    run = result.run
    first = run.first_stage
    assert first is not None
    stage = evaluate(
        result.folder / "stage1" / "model.tersenet", vgg16_bn(given.width), data=cifar, device=given.device
    )
    seed = run.seed
    shared = {**run_fields(run, seed=seed, epochs=given.epochs), **facts}
    before: dict[str, object] = {
        **shared,
        "method": f"{facts['method']}-stage1",
        "top1_untuned": first.untuned.top1,
        "top1": stage.metrics.top1,
        **costs(first.tuned, run.dense, run.original_bytes),
        "finetune_epochs": given.prune_epochs,
        "num_trials": len(first.trials),
        "search_seconds": first.seconds["search"],
    }
    after: dict[str, object] = {
        **shared,
        "top1": run.compressed.top1,
        **costs(run.compressed, run.dense, run.original_bytes),
        "paper_ratio": run.paper_ratio,
        "num_trials": len(run.trials),
        "search_seconds": run.seconds.get("search"),
        "finetune_seconds": run.seconds["finetune"],
    }
    return [before, after]


def options() -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__, work="runs/zhan2019", jobs=("VARIANT:SEED", ["agent:0", "uniform:0"]))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=float, default=0.5, help="channels over those of VGG-16")
    parser.add_argument("--base-epochs", type=int, default=100)
    parser.add_argument("--base-label-smoothing", type=float, default=0.1)
    parser.add_argument("--cutout", type=int, default=12, help="side of a square blacked out in every training image")
    parser.add_argument("--noise-epochs", type=int, default=1)
    parser.add_argument("--prune-epochs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=4, help="of fine-tuning after stage 2")
    parser.add_argument("--trials", type=int, default=300, help="per stage")
    parser.add_argument("--trial-images", type=int, default=2500)
    parser.add_argument("--images", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--max-params-ratio", type=float, help="parameters for a dense runtime, zeros included")
    parser.add_argument("--max-nonzero-ratio", type=float, default=1 / 8.7)
    parser.add_argument("--max-flops-ratio", type=float, default=0.5)
    parser.add_argument("--max-size-ratio", type=float, default=1 / 33)
    parser.add_argument("--lower-bound", type=float, default=0.1, help="share of a group's channels that stays")
    parser.add_argument("--units-lower-bound", type=float, default=0.005, help="share of a layer's units that stays")
    parser.add_argument("--reach", type=float, default=0.1, help="how far stage 1 goes from one threshold")
    given = parsed(parser)
    for job in given.jobs:
        if job.partition(":")[0] not in VARIANTS:
            parser.error(f"--jobs {job}: the variants are {', '.join(VARIANTS)}")
    return given


def main() -> None:
    """Run what is missing, print all rows."""
    given = options()
    command = "python benchmarks/zhan2019.py " + " ".join(sys.argv[1:])
    file = ResultFile("zhan2019", command="python benchmarks/zhan2019.py")
    cifar = opened(given)
    trained: tuple[nn.Module, float] | None = None
    for job in given.jobs:
        variant, _, seed = job.partition(":")
        facts: dict[str, object] = {
            "network": network_name(given),
            "method": "zhan2019" if variant == "agent" else f"zhan2019-{variant}",
            "seed": int(seed),
            "width": given.width,
            "device": given.device,
            "base_epochs": given.base_epochs,
            "base_label_smoothing": given.base_label_smoothing,
            "cutout": given.cutout,
            "max_size_ratio": given.max_size_ratio,
            "max_flops_ratio": given.max_flops_ratio,
            "max_params_ratio": given.max_params_ratio,
            "max_nonzero_ratio": given.max_nonzero_ratio,
            "unit": VARIANTS[variant].get("unit", UNIT),
            "lower_bound": given.lower_bound,
            "units_lower_bound": given.units_lower_bound,
            "reach": given.reach,
            "bootstrap": Zhan2019Config().bootstrap,
            "trials": given.trials,
            "trial_images": given.trial_images,
            "learning_rate": LEARNING_RATE,
            "prune_learning_rate": PRUNE_LEARNING_RATE,
            "total_epochs": given.noise_epochs + given.prune_epochs + given.epochs,
        }
        if file.has(**facts):
            continue
        target = bounds_of(given, file, variant, facts)
        trained = trained or trained_base(given, cifar)
        base, base_top1 = trained
        facts["top1_base"] = base_top1
        facts["base_converged"] = given.base_epochs >= CONVERGED_EPOCHS and base_top1 >= CONVERGED_TOP1
        result = run_once(given, cifar, base, variant, int(seed), target, command)
        facts["top1_before"] = dense_twin(given, cifar, base, int(seed))
        rows = rows_of(given, result, cifar, facts)
        for row in rows:
            file.add(row, seconds=sum(result.run.seconds.values()) / len(rows))
    columns = ("network", "method", "seed", "base_converged", "top1_before", "top1_untuned", "top1", "params_ratio")
    print_rows(file.rows, (*columns, "nonzero_params_ratio", "macs_ratio", "nonzero_macs_ratio", "compression_ratio"))


if __name__ == "__main__":
    main()
