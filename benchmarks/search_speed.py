"""What a trial costs, and whether the savings change what a search sees. CIFAR-10, policies drawn at random at half
the multiply-accumulates, the same in every row.

- `speedup`: seconds per trial of the straightforward evaluator (fp32, eager, contiguous, masks instead of surgery, no
  folding) over ours, on ResNet-20 with 5,000 search images; same policies, images and recalibration samples, in turn.
  `cpu_speedup` is the same in processor seconds, which other work on the machine disturbs less.
- `search`: ResNet-56 with 1,000 images, and from that 300 trials with their confirmations.
- `rank`: Spearman's correlation of the accuracies on 1,000 and on 5,000 images.
- `recalibration`: the same of 500 and 2,000 recalibration samples, on 1,000 images.
- `racing`: the share of time that stopping hopeless trials saves, and whether the best policy is the same.

    python benchmarks/search_speed.py --data DATA_FOLDER [--rows speedup search ...]

DATA_FOLDER holds cifar10/ and weights/. Rows that are there already are kept. The policies of one row are measured in
turn, so that what else the machine does meets all of them. Seconds depend on the machine; compare ratios.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows

from tersenet import Policy, data, models
from tersenet.data import Data
from tersenet.data.arrays import ArraySource
from tersenet.data.cifar10 import MEAN, STD
from tersenet.data.splits import SearchSplit
from tersenet.envs import Budget, Limit
from tersenet.evaluators import FreshEvaluator
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.recipes import ChannelConfig
from tersenet.recipes.recipe import Problem, make_env, make_space
from tersenet.search.loop import RACING_RANK
from tersenet.train.recalibrate import recalibrate
from tersenet.transforms import make_plan, simulate

SEED = 0
MACS_RATIO = 0.5
SEARCH_IMAGES, TRIAL_IMAGES, RECALIBRATION = 5000, 1000, 500
BATCH = 100
NUM_TRIALS, NUM_CONFIRMED = 300, 11


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network with its data and how many policies are measured."""

    name: str
    model: torch.nn.Module
    graph: ModelGraph
    data: Data

    def policies(self, count: int) -> list[Policy]:
        """Random preserve ratios in [0.2, 1], decoded to the budget."""
        config = ChannelConfig()
        space = make_space(self.graph, config)
        total = float(self.graph.macs)
        limit = Limit(kind="macs", table=cost_table(self.graph, "macs"), maximum=MACS_RATIO * total, original=total)
        problem = Problem(graph=self.graph, space=space, budget=Budget(limits=(limit,)), seed=SEED)
        env = make_env(problem, config, decoder="wall")
        generator = np.random.default_rng(SEED)
        return [env.decode(generator.uniform(0.2, 1.0, (env.num_decisions, 1))) for _ in range(count)]

    def evaluator(self, num_images: int, *, recalibration: int = RECALIBRATION) -> FreshEvaluator:
        """Ours, as searches use it; one more sample follows the split, since some must be left to confirm."""
        search, train = self.data.search.source, self.data.train.source
        assert isinstance(search, ArraySource)
        assert isinstance(train, ArraySource)
        images, labels = torch.cat([search.inputs, train.inputs[:1]]), torch.cat([search.targets, train.targets[:1]])
        longer = ArraySource(images, labels, mean=MEAN, std=STD, augment=None)
        return FreshEvaluator(
            self.model,
            self.graph,
            self.data.train,
            SearchSplit(longer),
            num_trial_samples=num_images,
            seed=SEED,
            num_recalibration_samples=recalibration,
            batch_size=BATCH,
        )


class Straightforward:
    """The same trial without any of the savings: what cutting would remove is zeroed and computed all the same."""

    def __init__(self, case: Case, num_images: int) -> None:
        self._case = case
        search, train = case.data.search.source, case.data.train.source
        self._trial = list(search.batches(BATCH, first=num_images))
        batches = train.batches(BATCH, shuffle_seed=SEED)
        self._calibration = [next(batches)[0] for _ in range(RECALIBRATION // BATCH)]

    def top1(self, policy: Policy) -> float:
        """Top-1 of one policy, percent."""
        model, graph = self._case.model, self._case.graph
        masked = simulate(model, graph, make_plan(model, graph, policy, seed=SEED)).eval()
        recalibrate(masked, self._calibration)
        num_right = num_seen = 0
        with torch.no_grad():
            for inputs, targets in self._trial:
                num_right += int((masked(inputs).argmax(dim=1) == targets).sum())
                num_seen += len(targets)
        return 100.0 * num_right / num_seen


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One measurement."""

    top1: float
    seconds: float
    cpu_seconds: float


def timed(measure: Callable[[], float]) -> Timed:
    """A measurement with what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    top1 = measure()
    return Timed(top1=top1, seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def top1_of(evaluator: FreshEvaluator, policy: Policy, *, below: float | None = None) -> float:
    """Top-1 of one trial, percent."""
    return evaluator.evaluate(policy, hopeless_below=below).metrics.quality


def confirmed_top1(evaluator: FreshEvaluator, policy: Policy) -> float:
    """Top-1 on the rest of the search images in fp32, percent."""
    return evaluator.confirm(policy).metrics.quality


def median(timings: list[Timed]) -> float:
    """Median seconds."""
    return statistics.median(one.seconds for one in timings)


def spearman(first: list[float], second: list[float]) -> float:
    """Rank correlation."""
    return float(spearmanr(first, second).statistic)


def speedup_row(case: Case, num_policies: int) -> dict[str, object]:
    """Ours against the straightforward evaluator."""
    ours, plain = case.evaluator(SEARCH_IMAGES), Straightforward(case, SEARCH_IMAGES)
    policies = case.policies(num_policies + 1)
    top1_of(ours, policies[-1])  # first calls are slower: threads start, memory is taken
    pairs = [(timed(partial(top1_of, ours, policy)), timed(partial(plain.top1, policy))) for policy in policies[:-1]]
    fast, slow = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        "dtype": ours.signature["dtype"],
        "num_policies": num_policies,
        "num_images": SEARCH_IMAGES,
        "num_threads": torch.get_num_threads(),
        "seconds_per_trial": median(fast),
        "straightforward_seconds": median(slow),
        "speedup": statistics.median(b.seconds / a.seconds for a, b in pairs),
        "cpu_speedup": sum(b.cpu_seconds for b in slow) / sum(a.cpu_seconds for a in fast),
        "max_top1_difference": max(abs(a.top1 - b.top1) for a, b in pairs),
        "mean_top1_difference": statistics.mean(a.top1 - b.top1 for a, b in pairs),
    }


def search_row(case: Case, num_policies: int) -> dict[str, object]:
    """A whole search, predicted from its parts; confirmation runs on the search images that trials leave.

    ``search_cpu_seconds`` is what it takes on one processor core; where the machine does other work as well, it is the
    figure to go by.
    """
    evaluator = case.evaluator(TRIAL_IMAGES)
    policies = case.policies(num_policies + 1)
    top1_of(evaluator, policies[-1])
    trials = [timed(partial(top1_of, evaluator, policy)) for policy in policies[:-1]]
    confirmed = [timed(partial(confirmed_top1, evaluator, policy)) for policy in policies[:2]]
    cpu_per_trial = statistics.median(one.cpu_seconds for one in trials)
    cpu_per_confirmation = statistics.median(one.cpu_seconds for one in confirmed)
    return {
        "dtype": evaluator.signature["dtype"],
        "num_policies": num_policies,
        "num_images": TRIAL_IMAGES,
        "num_threads": torch.get_num_threads(),
        "seconds_per_trial": median(trials),
        "cpu_seconds_per_trial": cpu_per_trial,
        "confirm_seconds": median(confirmed),
        "search_seconds": NUM_TRIALS * median(trials) + NUM_CONFIRMED * median(confirmed),
        "search_cpu_seconds": NUM_TRIALS * cpu_per_trial + NUM_CONFIRMED * cpu_per_confirmation,
    }


def rank_row(case: Case, num_policies: int) -> dict[str, object]:
    """Few images against many."""
    policies = case.policies(num_policies)
    few, many = case.evaluator(TRIAL_IMAGES), case.evaluator(SEARCH_IMAGES)
    pairs = [(top1_of(few, policy), top1_of(many, policy)) for policy in policies]
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {
        "num_policies": num_policies,
        "rank_correlation": spearman(first, second),
        "lowest_top1": min(second),
        "highest_top1": max(second),
    }


def recalibration_row(case: Case, num_policies: int) -> dict[str, object]:
    """Few recalibration samples against many, on the same images."""
    policies = case.policies(num_policies)
    few, many = case.evaluator(TRIAL_IMAGES), case.evaluator(TRIAL_IMAGES, recalibration=4 * RECALIBRATION)
    pairs = [(timed(partial(top1_of, few, policy)), timed(partial(top1_of, many, policy))) for policy in policies]
    return {
        "num_policies": num_policies,
        "num_images": TRIAL_IMAGES,
        "rank_correlation": spearman([a.top1 for a, _ in pairs], [b.top1 for _, b in pairs]),
        "mean_top1_difference": statistics.mean(abs(a.top1 - b.top1) for a, b in pairs),
        "cpu_speedup": sum(b.cpu_seconds for _, b in pairs) / sum(a.cpu_seconds for a, _ in pairs),
    }


def racing_row(case: Case, num_policies: int) -> dict[str, object]:
    """The same trials with and without racing, each policy in both ways in turn."""
    evaluator = case.evaluator(TRIAL_IMAGES)
    whole: list[Timed] = []
    raced: list[Timed] = []
    finished: list[float] = []  # top-1 of the raced trials that were not stopped
    num_images = 0
    for policy in case.policies(num_policies):
        whole.append(timed(partial(top1_of, evaluator, policy)))
        below = sorted(finished, reverse=True)[RACING_RANK - 1] if len(finished) >= RACING_RANK else None
        begin, cpu = time.perf_counter(), time.process_time()
        found = evaluator.evaluate(policy, hopeless_below=below)
        seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
        raced.append(Timed(top1=found.metrics.quality, seconds=seconds, cpu_seconds=cpu_seconds))
        num_images += found.metrics.num_samples or 0
        if not found.stopped_early:
            finished.append(found.metrics.quality)
    best = sorted(range(num_policies), key=lambda index: whole[index].top1, reverse=True)
    return {
        "num_policies": num_policies,
        "num_images": TRIAL_IMAGES,
        "num_stopped": num_policies - len(finished),
        "images_saved": 1.0 - num_images / (num_policies * TRIAL_IMAGES),
        "cpu_time_saved": 1.0 - sum(r.cpu_seconds for r in raced) / sum(w.cpu_seconds for w in whole),
        "same_winner": max(finished) == whole[best[0]].top1,
        "same_ten_best": sorted(finished)[-10:] == sorted(whole[index].top1 for index in best[:10]),
        "rank_correlation": spearman([w.top1 for w in whole], [r.top1 for r in raced]),
    }


ROWS: dict[str, tuple[Callable[[Case, int], dict[str, object]], tuple[tuple[str, int], ...]]] = {
    "speedup": (speedup_row, (("resnet20", 8),)),
    "search": (search_row, (("resnet56", 8),)),
    "rank": (rank_row, (("resnet20", 30), ("resnet56", 30))),
    "recalibration": (recalibration_row, (("resnet20", 30),)),
    "racing": (racing_row, (("resnet20", 60),)),
}


def load_case(root: Path, name: str) -> Case:
    """A pretrained network and CIFAR-10."""
    model = models.build(name)
    models.load_weights(model, root / "weights" / f"{name}_cifar10.safetensors")
    images = data.cifar10(root / "cifar10")
    return Case(name=name, model=model.eval(), graph=trace(model, images.example_inputs()), data=images)


def main() -> None:
    """Measure what is missing, print all rows."""
    parser = command_line(__doc__)
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    arguments = parsed(parser)
    file = ResultFile("search_speed", command="python benchmarks/search_speed.py")
    for what in arguments.rows:
        measure, cases = ROWS[what]
        for name, num_policies in cases:
            if not file.has(row=what, network=name):
                begin = time.perf_counter()
                found = measure(load_case(arguments.data, name), num_policies)
                file.add(
                    {"row": what, "network": name, "macs_ratio": MACS_RATIO, "seed": SEED} | found,
                    seconds=time.perf_counter() - begin,
                )
    shown = (
        "row",
        "network",
        "seconds_per_trial",
        "speedup",
        "cpu_speedup",
        "max_top1_difference",
        "search_cpu_seconds",
    )
    print_rows(file.rows, (*shown, "rank_correlation", "images_saved", "cpu_time_saved", "same_winner"))


if __name__ == "__main__":
    main()
