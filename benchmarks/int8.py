"""What int8 with quantised activations gains: ResNet-20 and ResNet-56 in onnxruntime, dense and at half their MACs.

Each network is written as fp32 and as static int8 (QDQ, activations calibrated on 512 training images). All four files
of a network are timed in turns, one thread, at batch 1 and 64; `latency_ratio` and `speedup` compare with the dense
fp32 file of the same network and batch size, `speedup_int8` with the fp32 file of the same weights. `cpu_speedup` and
`cpu_speedup_int8` are the same in processor time: on a busy machine long passes are interrupted and short ones are not,
which can make the wall clock say 7 where it is 2. Where the two disagree, believe the processor. `top1` is on the
whole test split, in onnxruntime; `agreement` is the share of its first 2,000 images that get the class that torch gives
them. Half the MACs: the uniform policy, batch norms recalibrated, fine-tuned for `--epochs`.

    python benchmarks/int8.py --data DATA_FOLDER [--epochs 3] [--networks resnet20 resnet56] [--check]

DATA_FOLDER holds cifar10/ and weights/. Rows are written as soon as a batch size of a network is timed; what is there
already is kept, files and fine-tuned networks below --work too. Speed needs a processor with VNNI instructions (`vnni`
in the rows); prints all rows and writes benchmarks/results/int8.json. --check goes the whole way on few images and few
passes, un-tuned, and writes no rows: its numbers mean nothing.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows

from tersenet import Target, data, models
from tersenet.api import CompressOptions
from tersenet.api.prepare import prepare
from tersenet.core.metrics import Latency
from tersenet.export import OnnxRunner, check_onnx, export_int8, export_onnx
from tersenet.measurement import accuracy_of, activation_ranges, measure_latency
from tersenet.recipes import Problem, make_env
from tersenet.train import TrainConfig, fit, recalibrate
from tersenet.transforms import make_plan, materialize

WARMUP = 5
COLUMNS = ("network", "method", "batch_size", "top1", "agreement", "macs_ratio", "size_bytes")
TIMES = ("median_ms", "speedup", "speedup_int8", "cpu_ms", "cpu_speedup", "cpu_speedup_int8")
OF_FILES = (*COLUMNS[:2], *COLUMNS[3:], "data", "seed", "finetune_epochs", "vnni")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured."""

    num_runs: dict[int, int]
    """Timed passes of each file, by batch size."""

    test_images: int | None
    """First images of the test split; None: all."""

    compared_images: int
    calibration_images: int
    recalibration_images: int


FULL = Effort(
    num_runs={1: 300, 64: 40},
    test_images=None,
    compared_images=2000,
    calibration_images=512,
    recalibration_images=2048,
)
CHECK = Effort(
    num_runs={1: 5, 64: 3}, test_images=128, compared_images=64, calibration_images=64, recalibration_images=128
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network in both forms."""

    method: str
    model: nn.Module
    macs_ratio: float
    finetune_epochs: int


class Pass:
    """One forward pass, which notes the processor time of this thread, the only one that computes."""

    def __init__(self, runner: OnnxRunner, batch: Tensor) -> None:
        self._runner, self._batch = runner, batch
        self._times: list[float] = []

    def __call__(self) -> None:
        begin = time.thread_time()
        self._runner(self._batch)
        self._times.append(time.thread_time() - begin)

    def cpu_ms(self) -> float:
        """Median without the warm-up."""
        return 1000.0 * statistics.median(self._times[WARMUP:])


def inputs(cifar: data.Data, count: int, *, seed: int) -> list[Tensor]:
    """Training images as they are, in batches."""
    source = cifar.train.source.batches(64, shuffle_seed=seed, first=count)
    return [images for images, _ in source if isinstance(images, Tensor)]


def halved(name: str, model: nn.Module, cifar: data.Data, epochs: int, work: Path, effort: Effort) -> Case:
    """The network of the uniform policy at half the MACs."""
    options = CompressOptions(recipe_options={})
    target = Target(max_macs_ratio=0.5)
    prepared = prepare(model, cifar.example_inputs(), target=target, recipe="uniform", options=options)
    problem = Problem(graph=prepared.graph, space=prepared.space, budget=prepared.budget, seed=0)
    env = make_env(problem, prepared.config, decoder="level")
    policy = env.decode(np.full((prepared.space.num_decisions, 1), 0.5))
    small = materialize(model, make_plan(model, prepared.graph, policy, seed=0))
    recalibrate(small, inputs(cifar, effort.recalibration_images, seed=0))
    if epochs:
        config = TrainConfig(epochs=epochs, learning_rate=0.02, distill_weight=0.7, seed=0)
        fit(small, cifar.train, cifar.search, config, teacher=model, checkpoint=work / f"{name}-{epochs}.pt")
    macs_ratio = prepared.cost_ratios(policy)["macs"]
    return Case(method="uniform", model=small.eval(), macs_ratio=macs_ratio, finetune_epochs=epochs)


def has_vnni() -> bool | None:
    """Whether the processor multiplies 8-bit integers four at a time; None where that is not known."""
    facts = Path("/proc/cpuinfo")
    return "vnni" in facts.read_text() if facts.exists() else None


def write_files(case: Case, cifar: data.Data, work: Path, effort: Effort) -> dict[str, Path]:
    """Both files of a network, by method."""
    fp32, int8 = work / f"{case.method}.onnx", work / f"{case.method}-int8.onnx"
    export_onnx(fp32, case.model, cifar.example_inputs())
    export_int8(int8, fp32, activation_ranges(fp32, inputs(cifar, effort.calibration_images, seed=1)))
    return {case.method: fp32, f"{case.method}-int8": int8}


def known_facts(rows: list[dict[str, object]], name: str) -> dict[str, dict[str, object]]:
    """What rows of another batch size say about the files of a network, by method."""
    own = [row for row in rows if row["network"] == name]
    return {str(row["method"]): {key: row[key] for key in OF_FILES} for row in own}


def add_rows(
    file: ResultFile | NoFile, name: str, cifar: data.Data, *, root: Path, epochs: int, work: Path, effort: Effort
) -> None:
    """Build and write one network, measure its files, and time what is missing; a batch size is four rows at once."""
    missing = [size for size in effort.num_runs if not file.has(network=name, batch_size=size)]
    if not missing:
        return
    begin = time.perf_counter()
    model = models.build(name)
    models.load_weights(model, root / "weights" / f"{name}_cifar10.safetensors")
    dense = Case(method="dense", model=model.eval(), macs_ratio=1.0, finetune_epochs=0)
    cases = [dense, halved(name, model, cifar, epochs, work, effort)]
    files = {method: (case, path) for case in cases for method, path in write_files(case, cifar, work, effort).items()}
    runners = {method: OnnxRunner(path, num_threads=1) for method, (_, path) in files.items()}
    facts = known_facts(file.rows, name) or {
        method: {"network": name, "data": "cifar10", "method": method, "seed": 0}
        | {"macs_ratio": case.macs_ratio, "finetune_epochs": case.finetune_epochs, "vnni": has_vnni()}
        | {"size_bytes": path.stat().st_size, **measured(runners[method], case, path, cifar, effort)}
        for method, (case, path) in files.items()
    }
    for batch_size in missing:
        (batch,) = cifar.example_inputs(batch_size)
        passes = {method: Pass(runner, batch) for method, runner in runners.items()}
        num_runs = effort.num_runs[batch_size]
        found = measure_latency(passes, num_runs=num_runs, warmup=WARMUP, runtime="onnxruntime", batch_size=batch_size)
        cpu_ms = {method: one.cpu_ms() for method, one in passes.items()}
        for method, (case, _) in files.items():
            row = facts[method] | time_fields(found, cpu_ms, method, case.method)
            file.add(row, seconds=time.perf_counter() - begin)
            begin = time.perf_counter()


def time_fields(found: dict[str, Latency], cpu_ms: dict[str, float], method: str, fp32: str) -> dict[str, object]:
    """Latency of one file beside the dense one's and beside that of the same weights in fp32."""
    own, dense = found[method], found["dense"]
    return {
        "batch_size": own.batch_size,
        "median_ms": own.median_ms,
        "quartiles_ms": [own.low_ms, own.high_ms],
        "latency_ratio": own.median_ms / dense.median_ms,
        "speedup": dense.median_ms / own.median_ms,
        "speedup_int8": found[fp32].median_ms / own.median_ms,
        "cpu_ms": cpu_ms[method],
        "cpu_speedup": cpu_ms["dense"] / cpu_ms[method],
        "cpu_speedup_int8": cpu_ms[fp32] / cpu_ms[method],
    }


def measured(runner: OnnxRunner, case: Case, path: Path, cifar: data.Data, effort: Effort) -> dict[str, object]:
    """Accuracy of a file on the test split, and how often it agrees with torch."""
    test = cifar.test.source
    top1 = accuracy_of(lambda images: runner(images)[0], test, batch_size=250, first=effort.test_images).top1
    same = (images for images, _ in test.batches(250, first=effort.compared_images))
    check = check_onnx(path, case.model, same, num_threads=1)
    return {"top1": top1, "agreement": check.agreement}


class NoFile:
    """Takes rows as a result file does, and writes none."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []

    def has(self, **fields: object) -> bool:
        """Nothing was there before."""
        return False

    def add(self, row: dict[str, object], *, seconds: float) -> None:
        """Keep a row until the end."""
        self.rows.append(row)


def main() -> None:
    """Measure what is missing, print all rows."""
    parser = command_line(__doc__, work="runs/int8")
    parser.add_argument("--epochs", type=int, default=3, help="fine-tuning of the cut networks")
    parser.add_argument("--networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--check", action="store_true", help="the whole way with little effort; writes no rows")
    arguments = parsed(parser)
    cifar = data.cifar10(arguments.data / "cifar10")
    file = NoFile() if arguments.check else ResultFile("int8", command="python benchmarks/int8.py")
    epochs, effort = (0, CHECK) if arguments.check else (arguments.epochs, FULL)
    for name in arguments.networks:
        work = arguments.work / ("check" if arguments.check else name)
        work.mkdir(parents=True, exist_ok=True)
        add_rows(file, name, cifar, root=arguments.data, epochs=epochs, work=work, effort=effort)
    print_rows(file.rows, (*COLUMNS, *TIMES))


if __name__ == "__main__":
    main()
