"""Learned states against hand-made ones: the same agent, budget and number of evaluations, on CIFAR-10.

A job is NETWORK:METHOD:SEED:EPOCHS. METHOD is a recipe (yu2021, gnnrl2022), with `-hand_made` behind it for AMC's
features in place of the learned states, and with `-from-NETWORK` for an agent that was trained on that network by the
same recipe and seed, whose run must be there; the first trial of such a run is what the agent decides unseen
(`zero_shot_top1`).

Un-tuned rows: 300 evaluations of 1,000 images, the best confirmed in fp32 on the 4,000 search images that no trial saw
(`top1_untuned`). `course` is the best trial accuracy after 25, 50, ... trials, `mean_course` the mean of trials 1
to 25, 26 to 50, ...; `agent_seconds` is what the search took beside its evaluations. Rows of the controls are those of
benchmarks/he2018.py, which uses the same budget, images and confirmation. Prints all rows, the medians over seeds, and
how many trials it takes until the best trial and the mean of 25 trials know a given accuracy; writes
benchmarks/results/agmc.json. A run that was stopped goes on where it was.

    python benchmarks/agmc.py --data DATA_FOLDER --work WORK_FOLDER [--jobs NETWORK:METHOD:SEED:EPOCHS ...]
"""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, delivered_fields, parsed, print_rows, run_fields

from tersenet import Target, data, models
from tersenet.api import CompressOptions, compress
from tersenet.core.summary import RunSummary

SEEDS = (0, 1, 2)
METHODS = {
    "resnet56": ("yu2021", "yu2021-hand_made", "gnnrl2022", "gnnrl2022-hand_made"),
    "resnet20": ("yu2021", "yu2021-from-resnet56", "yu2021-hand_made", "yu2021-hand_made-from-resnet56"),
}
TUNED = ("resnet56:yu2021:1:30", "resnet20:yu2021:0:30")
"""Of each network the seed whose policy was confirmed to be the best."""
GOALS = {"resnet56": (90.0, 92.0, 93.0, 94.0), "resnet20": (60.0, 65.0, 70.0, 73.0)}
"""Trial accuracies, percent, that searches are timed to, in trials."""

STEP = 25
"""Trials between two points of a course."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all jobs of one call."""

    root: Path
    work: Path
    trials: int
    images: int

    def folder(self, network: str, method: str, seed: int) -> Path:
        """Where a run is kept."""
        return self.work / f"{network}-{method}-{seed}"


def default_jobs() -> list[str]:
    """Every row of the comparison, seed by seed, so that a stopped benchmark is still balanced."""
    jobs = [
        f"{network}:{method}:{seed}:0" for seed in SEEDS for network, methods in METHODS.items() for method in methods
    ]
    return [*jobs, *TUNED]


def run_once(setting: Setting, job: str, *, command: str) -> RunSummary:
    """One row's run."""
    network, method, seed, epochs = job.split(":")
    variant, _, origin = method.partition("-from-")
    recipe, _, state = variant.partition("-")
    agent = setting.folder(origin, variant, int(seed)) / "agent.safetensors" if origin else None
    model = models.build(network)
    weights = models.load_weights(model, setting.root / "weights" / f"{network}_cifar10.safetensors")
    result = compress(
        model,
        data=replace(data.cifar10(setting.root / "cifar10"), num_trial_samples=setting.images),
        target=Target(max_macs_ratio=0.5),
        recipe=recipe,
        seed=int(seed),
        options=CompressOptions(
            trials=setting.trials,
            finetune_epochs=int(epochs),
            recipe_options={"state": state or "learned"},
            agent=agent,
            controls=(),
            out=setting.folder(network, method, int(seed)),
            model_name=network,
            weights=weights,
            command=command,
        ),
    )
    return result.run


def evaluation_seconds(study: Path) -> float:
    """Seconds that the trials of a study were measured for."""
    with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as db:
        told = db.execute("SELECT evaluation FROM trials WHERE evaluation IS NOT NULL").fetchall()
    return sum(float(json.loads(text)["seconds"]) for (text,) in told)


def row_of(run: RunSummary, setting: Setting, job: str) -> dict[str, object]:
    """One row of the result file."""
    network, method, seed, epochs = job.split(":")
    qualities = [point.quality for point in run.trials]
    best = list(accumulate(qualities, max))
    search_seconds = run.seconds.get("search", 0.0)
    study = setting.folder(network, method, int(seed)) / "study.sqlite"
    row: dict[str, object] = {
        **run_fields(run, seed=int(seed), epochs=int(epochs)),
        "method": method,
        "best_trial_top1": best[-1],
        "num_trials": len(best),
        "course": [round(value, 2) for value in best[STEP - 1 :: STEP]],
        "mean_course": [
            round(statistics.mean(qualities[first : first + STEP]), 2) for first in range(0, len(best), STEP)
        ],
        "search_seconds": search_seconds,
        "agent_seconds": search_seconds - evaluation_seconds(study),
    }
    if "-from-" in method:
        row["zero_shot_top1"] = run.trials[0].quality
    if int(epochs):
        row |= {"top1": run.compressed.top1, "finetune_seconds": run.seconds["finetune"], **delivered_fields(run)}
    return row


def by_method(rows: list[dict[str, object]]) -> dict[tuple[str, str], list[dict[str, object]]]:
    """Un-tuned rows, by network and method."""
    groups: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in rows:
        if row["finetune_epochs"] == 0:
            groups.setdefault((str(row["network"]), str(row["method"])), []).append(row)
    return groups


def comparison(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Per network and method the median of the confirmed accuracy over seeds, and its range."""
    found: list[dict[str, object]] = []
    for (network, method), members in by_method(rows).items():
        confirmed = [float(str(row["top1_untuned"])) for row in members]
        found.append(
            {
                "network": network,
                "method": method,
                "seeds": len(members),
                "median": statistics.median(confirmed),
                "lowest": min(confirmed),
                "highest": max(confirmed),
            }
        )
    return found


def trials_until(course: object, goal: float) -> float:
    """Trials, in steps of 25, until a course is at a goal; infinite where it never is."""
    assert isinstance(course, list)
    return next((STEP * (place + 1) for place, value in enumerate(course) if value >= goal), math.inf)


def trials_to_goals(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Per network, method and accuracy the trials it takes: median over seeds, fewest and most."""
    found = []
    for (network, method), members in by_method(rows).items():
        for goal in GOALS.get(network, ()):
            row: dict[str, object] = {"network": network, "method": method, "seeds": len(members), "goal": goal}
            for name, kind in (("best", "course"), ("mean", "mean_course")):
                taken = [trials_until(member[kind], goal) for member in members]
                row |= {name: statistics.median(taken), f"{name}_fewest": min(taken), f"{name}_most": max(taken)}
            found.append(row)
    return found


def main() -> None:
    """Run what is missing, print all rows."""
    parser = command_line(__doc__, work="runs/agmc", jobs=("NETWORK:METHOD:SEED:EPOCHS", default_jobs()))
    parser.add_argument("--trials", type=int, default=300, help="evaluations of a search")
    parser.add_argument("--images", type=int, default=1000, help="search images of a trial")
    parser.add_argument("--name", default="agmc", help="name of the result file")
    arguments = parsed(parser)
    command = "python benchmarks/agmc.py" + (f" --name {arguments.name}" if arguments.name != "agmc" else "")
    setting = Setting(arguments.data, arguments.work, arguments.trials, arguments.images)
    file = ResultFile(arguments.name, command=command)
    for job in arguments.jobs:
        network, method, seed, epochs = job.split(":")
        if not file.has(network=network, method=method, seed=int(seed), finetune_epochs=int(epochs)):
            run = run_once(setting, job, command=command)
            file.add(row_of(run, setting, job), seconds=sum(run.seconds.values()))
    columns = ("network", "method", "seed", "top1_untuned", "best_trial_top1", "zero_shot_top1", "macs_ratio")
    print_rows(file.rows, (*columns, "search_seconds", "agent_seconds", "finetune_epochs", "top1"))
    print()
    print_rows(comparison(file.rows), ("network", "method", "seeds", "median", "lowest", "highest"))
    print()
    taken = ("best", "best_fewest", "best_most", "mean", "mean_fewest", "mean_most")
    print_rows(trials_to_goals(file.rows), ("network", "method", "seeds", "goal", *taken))


if __name__ == "__main__":
    main()
