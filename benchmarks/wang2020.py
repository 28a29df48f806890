"""Geometric-median pruning and learned numbers of clusters, CIFAR-10: the paper's table again, and honest bytes.

Rows of the paper's table (`fpgm`, `k=N`, `n/N`, `learned`): 40 % of the channels cut by geometric median and tuned;
then every layer's weights shared: constant k, k = n / N (nearest power of two), or learned by `wang2020` among powers
of two; then tuned again. `paper_ratio` is the paper's accounting (index bits of convolutions, no codebooks),
`compression_ratio` that of the whole file; they are never to be mixed.

Rows of bytes (`bytes/METHOD/FACTOR`): nothing cut, any k, the whole file at most 1/FACTOR of the network's. `learned`
is `layerwise_clusters`, `constant` the same k everywhere (slack filled), `rate_distortion` the Lagrangian allocation;
all three come from one search. `wang2020` is the paper's agent under the same bound. Each is tuned for the same epochs
with the same seed, every weight free to change its cluster, and tuned again with fewer clusters if its file has grown
above the bound. `fixed` is the policy of `learned` tuned as in the paper's table, where weights keep the cluster they
began in. Rows of a twenty-fourth with seeds 0 and 1 were searched before searches left room for such growth, so they
come out slightly different now.

`top1_untuned` is measured on search images that no trial saw, top-1 and top-5 on the whole test split, once. Prints
all rows, and the differences at equal bytes over seeds; writes benchmarks/results/wang2020.json. A run that was stopped
goes on where it was.

    python benchmarks/wang2020.py --data DATA_FOLDER --work WORK_FOLDER [--jobs NETWORK:ROW:SEED ...]
"""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows, run_fields, size_fields

from tersenet import Policy, Target, data, models
from tersenet.api import CompressOptions, apply, compress
from tersenet.core.files import write_whole
from tersenet.core.policy import ChannelDecision, Clusters
from tersenet.core.summary import RunSummary
from tersenet.graph import trace
from tersenet.recipes import ChannelConfig
from tersenet.recipes.recipe import make_space
from tersenet.transforms import make_plan, materialize

TRIALS = 150
EPOCHS = 5
SEEDS = (0, 1, 2)
PRUNING_RATIO = 0.4
RULES = ("fpgm", "k=16", "k=32", "k=64", "n/16", "n/32", "n/64")
PAPER_BYTES = {"resnet20": 88_000, "resnet32": 138_000}
"""Bounds on the file at which the learned rows come out just above the paper's 11.17 and 12.03 in its accounting."""

METHODS = {
    "learned": "layerwise_clusters",
    "constant": "uniform",
    "rate_distortion": "rate_distortion",
    "wang2020": "wang2020",
    "fixed": "layerwise_clusters",
}
CONTROLS = ("uniform", "rate_distortion")
FREE: dict[str, object] = {"assignments": "straight_through"}
"""How rows of bytes are tuned."""


def default_jobs() -> list[str]:
    """Every row, the most telling ones first."""
    jobs = ["resnet20:bytes/learned/12:0", "resnet32:bytes/learned/12:0", "resnet32:bytes/learned/16:0"]
    jobs += [f"{network}:learned:0" for network in PAPER_BYTES]
    compared = list(METHODS)[:3]
    jobs += [f"resnet20:bytes/{method}/{factor}:{seed}" for factor in (24, 16) for seed in SEEDS for method in compared]
    jobs += [f"resnet20:bytes/{method}/16:0" for method in METHODS if method not in compared]
    jobs += [f"{network}:{rule}:0" for network in PAPER_BYTES for rule in RULES]
    return [*jobs, "resnet20:learned:1", "resnet20:learned:2"]


class Bench:
    """What the rows of one network and seed share: the search, the tuned cut and what the teacher said."""

    def __init__(self, root: Path, work: Path, *, network: str, seed: int, command: str) -> None:
        self.seed = seed
        self._work = work / f"{network}-{seed}"
        self._command = command
        self._network = network
        self._model = models.build(network)
        self._weights = models.load_weights(self._model, root / "weights" / f"{network}_cifar10.safetensors")
        self._data = data.cifar10(root / "cifar10")
        self._graph = trace(self._model, self._data.example_inputs())

    def run(self, row: str) -> tuple[RunSummary, float | None]:
        """The run of one row, and its policy's accuracy on held-back search images before it was tuned."""
        if row == "learned":
            run = self._search("wang2020", "paper", PAPER_BYTES[self._network], {"powers_of_two": True})
            return run, _untuned(run, "wang2020")
        if row.startswith("bytes/"):
            _, method, factor = row.split("/")
            bound = self._graph.original_bytes // int(factor)
            if method == "wang2020":
                found = self._search(method, f"wang2020-{factor}", bound, {"pruning_ratio": 0.0, **FREE})
                return found, _untuned(found, method)
            deliver = None if method == "fixed" else METHODS[method]
            found = self._search(METHODS["learned"], f"bytes-{factor}", bound, FREE, CONTROLS, deliver)
            untuned = _untuned(found, METHODS[method])
            if method == "fixed":
                return self._apply(_policy(found, METHODS[method]), f"bytes-{factor}", {}), untuned
            return found, untuned
        return self._apply(self._rule(row), "paper", {}), None

    def _search(
        self,
        recipe: str,
        folder: str,
        max_size_bytes: int,
        options: dict[str, object],
        controls: tuple[str, ...] = (),
        deliver: str | None = None,
    ) -> RunSummary:
        done = self._work / f"{folder}-{deliver or recipe}.json"
        if done.exists():
            return RunSummary.model_validate_json(done.read_bytes())
        found = compress(
            self._model,
            data=self._data,
            target=Target(max_size_bytes=max_size_bytes),
            recipe=recipe,
            seed=self.seed,
            options=self._options(folder, recipe_options=options, controls=controls, deliver=deliver),
        ).run
        write_whole(done, found.model_dump_json().encode())  # rows share the folder
        return found

    def _apply(self, policy: Policy, folder: str, options: dict[str, object]) -> RunSummary:
        options_of_run = self._options(folder, recipe_options=options)
        return apply(self._model, policy, data=self._data, seed=self.seed, options=options_of_run).run

    def _options(self, folder: str, **changes: object) -> CompressOptions:
        return CompressOptions(
            trials=TRIALS,
            finetune_epochs=EPOCHS,
            out=self._work / folder,
            model_name=self._network,
            weights=self._weights,
            command=self._command,
            **changes,  # type: ignore[arg-type]
        )

    def _rule(self, row: str) -> Policy:
        decision = ChannelDecision(pruning_ratio=PRUNING_RATIO, criterion="geometric_median")
        space = make_space(self._graph, ChannelConfig())
        groups = [self._graph.channel_groups[int(index)].group_id for index in space.indices]
        cut = Policy(channels=dict.fromkeys(groups, decision))
        if row == "fpgm":
            return cut
        small = materialize(self._model, make_plan(self._model, self._graph, cut, seed=self.seed))
        sizes = {layer.name: small.get_parameter(layer.weight).numel() for layer in self._graph.layers}
        return cut.model_copy(
            update={"storage": {name: Clusters(n_clusters=_k(row, size)) for name, size in sizes.items()}}
        )


def _k(rule: str, size: int) -> int:
    number = int(rule[2:])
    return number if rule.startswith("k=") else max(2, 2 ** round(math.log2(size / number)))


def _policy(found: RunSummary, method: str) -> Policy:
    return next(entry.policy for entry in found.confirmed if entry.method == method)


def _untuned(found: RunSummary, method: str) -> float:
    return max(entry.confirmed_quality for entry in found.confirmed if entry.method == method)


def row_of(run: RunSummary, *, row: str, seed: int, untuned: float | None) -> dict[str, object]:
    """One row of the result file."""
    convolutions = [layer for layer in run.layers if layer.op != "linear"]
    counts = [form.n_clusters for form in run.policy.storage.values() if isinstance(form, Clusters)]
    method = METHODS[row.split("/")[1]] if row.startswith("bytes/") else run.recipe
    cut_ratio = sum(one.params_before for one in convolutions) / sum(one.params_after for one in convolutions)
    return {
        **run_fields(run, seed=seed, epochs=EPOCHS),
        "method": method,
        "row": row,
        "top1_untuned": untuned,
        "paper_ratio": cut_ratio if run.paper_ratio is None else run.paper_ratio,
        **size_fields(run.compressed, run.original_bytes),
        "top1": run.compressed.top1,
        "top5": run.compressed.top5,
        "clusters": f"{min(counts)} to {max(counts)}" if counts else None,
        "num_trials": len([point for point in run.trials if point.method == method]),
        "search_seconds": run.seconds.get("search"),
        "finetune_seconds": run.seconds["finetune"],
    }


def differences(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Learned minus each other method at equal bytes, per seed, with mean and spread."""
    found: list[dict[str, object]] = []
    for factor in sorted({str(row["row"]).split("/")[2] for row in rows if str(row["row"]).startswith("bytes/")}):
        for network in PAPER_BYTES:
            for other in list(METHODS)[1:]:
                for measure in ("top1_untuned", "top1"):
                    gaps = _gaps(rows, network, f"bytes/learned/{factor}", f"bytes/{other}/{factor}", measure)
                    if gaps:
                        found.append(
                            {
                                "network": network,
                                "factor": factor,
                                "learned minus": other,
                                "measure": measure,
                                "seeds": len(gaps),
                                "mean": statistics.mean(gaps),
                                "lowest": min(gaps),
                                "highest": max(gaps),
                            }
                        )
    return found


def _gaps(rows: list[dict[str, object]], network: str, first: str, second: str, measure: str) -> list[float]:
    values = {(row["row"], row["seed"]): row[measure] for row in rows if row["network"] == network}
    gaps = []
    for seed in SEEDS:
        ours, theirs = values.get((first, seed)), values.get((second, seed))
        if isinstance(ours, float) and isinstance(theirs, float):
            gaps.append(ours - theirs)
    return gaps


def main() -> None:
    """Run what is missing, print all rows."""
    arguments = parsed(command_line(__doc__, work="runs/wang2020", jobs=("NETWORK:ROW:SEED", default_jobs())))
    command = "python benchmarks/wang2020.py"
    file = ResultFile("wang2020", command=command)
    for job in arguments.jobs:
        network, row, seed = job.split(":")
        if not file.has(network=network, row=row, seed=int(seed)):
            bench = Bench(arguments.data, arguments.work, network=network, seed=int(seed), command=command)
            run, untuned = bench.run(row)
            seconds = sum(run.seconds.values())
            file.add(row_of(run, row=row, seed=int(seed), untuned=untuned), seconds=seconds)
    columns = ("network", "row", "seed", "paper_ratio", "size_bytes", "compression_ratio", "clusters")
    print_rows(file.rows, (*columns, "top1_untuned", "top1", "top5"))
    print()
    gaps = differences(file.rows)
    print_rows(gaps, ("network", "factor", "learned minus", "measure", "seeds", "mean", "lowest", "highest"))


if __name__ == "__main__":
    main()
