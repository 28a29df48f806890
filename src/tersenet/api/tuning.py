"""From a policy to a tuned smaller network, loosened or tightened until every bound holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import nn

from tersenet import pack
from tersenet.api.options import CompressOptions
from tersenet.api.prepare import Prepared, storage_dtype
from tersenet.core.metrics import Metrics
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy, Raw
from tersenet.core.summary import EpochPoint
from tersenet.core.target import Target
from tersenet.data import Data
from tersenet.envs import reachable
from tersenet.evaluators import Repair, make_repair
from tersenet.measurement import measure_quality
from tersenet.measurement.placement import kept_modes, placement_of
from tersenet.recipes import Problem, make_env
from tersenet.train import TrainConfig, fit
from tersenet.transforms import make_plan, materialize

Dtype = Literal["fp32", "fp16"]

CHECKPOINTS = "checkpoints"
"""Folder inside that of the run."""

MAX_TUNINGS = 4
"""Networks that are tuned at most to keep ``max_top1_drop``."""

SMALLEST_STEP = 0.02
"""Where the bisection for ``max_top1_drop`` stops, as a share of the way from the bound to the whole network."""

HALF_PRECISION_TOLERANCE = 0.1
"""Points of search-split quality that storing as fp16 may cost before fp32 is taken instead."""

REPAIR_SAMPLES = 2048


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """One policy, built and tuned."""

    model: nn.Module
    """As the packed file will hold it."""

    policy: Policy
    """With the form of storage."""

    plan: Plan
    dtype: Dtype
    """How weights are stored."""

    metrics: Metrics
    """On the whole search split."""

    size_bytes: int
    """Of the packed file."""

    epochs: tuple[EpochPoint, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TuningJob:
    """What stays the same between the tunings of a run."""

    prepared: Prepared
    data: Data
    target: Target | None
    seed: int
    options: CompressOptions
    folder: Path
    """Of the run; checkpoints go below it."""

    provenance: Mapping[str, str]
    reference: float | None
    """Search-split quality that ``max_top1_drop`` counts from; None without that bound."""

    def keeps_drop(self, tuned: Tuned) -> bool:
        """Whether the quality is within ``max_top1_drop`` of the reference."""
        if self.reference is None or self.target is None or self.target.max_top1_drop is None:
            return True
        return tuned.metrics.quality >= self.reference - self.target.max_top1_drop

    @property
    def size_bound(self) -> float:
        """Bytes the packed file may have."""
        if self.target is None:
            return float("inf")
        original = {limit.kind: limit.original for limit in self.prepared.costs}
        return self.target.limits(original).get("size_bytes", float("inf"))


def tune_until_kept(job: TuningJob, winner: Policy) -> Tuned:
    """Tune the winner; where ``max_top1_drop`` is missed, loosen the budget by bisection and tune again.

    The bisection runs from the bounds of the target (fraction 0) to the whole network (fraction 1), with at most four
    tunings. Where the target bounds no cost it starts in between and may also go down. The smallest network that keeps
    the drop is returned; if none does, the best.
    """
    bounds_given = job.target is None or bool(job.target.bounds())
    lowest, highest = 0.0, 1.0
    fraction = 0.0 if bounds_given else _fraction_of_start(job.prepared)
    policy, prepared = winner, job.prepared
    attempts: list[tuple[float, Tuned]] = []
    while True:
        tuned = tune(job, prepared, policy)
        attempts.append((fraction, tuned))
        if job.keeps_drop(tuned):
            highest = fraction
        else:
            lowest = fraction
        if job.reference is None or len(attempts) == MAX_TUNINGS or highest - lowest < SMALLEST_STEP:
            break
        fraction = (lowest + highest) / 2
        prepared = _loosened(job.prepared, fraction, bounds_given=bounds_given)
        policy = redecode(prepared, winner)
        job.options.progress.note(f"max_top1_drop is not settled yet: tuning again at {_bounds_text(prepared)}.")
    kept = [attempt for attempt in attempts if job.keeps_drop(attempt[1])]
    if kept:
        return min(kept, key=lambda attempt: attempt[0])[1]
    return max(attempts, key=lambda attempt: attempt[1].metrics.quality)[1]


def tune(job: TuningJob, prepared: Prepared, policy: Policy) -> Tuned:
    """Build, recalibrate and fine-tune the network of a policy that fits the bound on bytes, and weigh its file."""
    config, options = prepared.config, job.options
    policy, plan, small = _fit_bytes(job, prepared, policy)
    epochs: tuple[EpochPoint, ...] = ()
    seconds = 0.0
    if config.finetune_epochs > 0:
        fitted = fit(
            small,
            job.data.train,
            job.data.search,
            train_config(job),
            teacher=prepared.model if config.distill_weight > 0 else None,
            task=options.task,
            checkpoint=_checkpoint(job, policy),
            progress=options.progress,
            stage="fine-tune",
        )
        epochs, seconds = fitted.epochs, fitted.seconds
    return replace(_store(job, small, policy, plan), epochs=epochs, seconds=seconds)


def train_config(job: TuningJob) -> TrainConfig:
    """How the recipe fine-tunes."""
    config = job.prepared.config
    return TrainConfig(
        epochs=config.finetune_epochs,
        batch_size=config.finetune_batch_size,
        learning_rate=config.finetune_learning_rate,
        distill_weight=config.distill_weight,
        device=job.options.device,
        seed=job.seed,
    )


def _checkpoint(job: TuningJob, policy: Policy) -> Path:
    """One file per policy and way to tune it, so that another learning rate starts anew and finds no stranger's."""
    loss = getattr(job.options.task.loss, "__qualname__", "")
    how = f"{train_config(job).model_dump_json(exclude={'device'})} {loss}"
    digest = hashlib.sha256(how.encode()).hexdigest()[:8]
    return job.folder / CHECKPOINTS / f"finetune-{policy.digest()}-{digest}.pt"


def redecode(prepared: Prepared, policy: Policy) -> Policy:
    """The same preferences between groups, decoded to the budget of ``prepared``."""
    problem = Problem(graph=prepared.graph, space=prepared.space, budget=prepared.budget, seed=0)
    env = make_env(problem, prepared.config, decoder="level")
    ratios = prepared.num_kept(policy)[prepared.space.indices] / prepared.space.num_channels
    return env.decode(ratios[:, None])


def _fraction_of_start(prepared: Prepared) -> float:
    limit = prepared.budget.limits[0]
    floor = reachable(prepared.space, limit.table)
    return (limit.maximum - floor) / (limit.original - floor)


def _loosened(prepared: Prepared, fraction: float, *, bounds_given: bool) -> Prepared:
    changed = prepared
    for limit in prepared.budget.limits:
        floor = limit.maximum if bounds_given else reachable(prepared.space, limit.table)
        changed = changed.bounded_to(limit.kind, floor + fraction * (limit.original - floor))
    return changed


def _bounds_text(prepared: Prepared) -> str:
    return ", ".join(
        f"{100 * limit.maximum / limit.original:.1f} % of {limit.kind}" for limit in prepared.budget.limits
    )


def _repair(job: TuningJob) -> Repair:
    """What trials were repaired by, learned from more samples."""
    prepared = job.prepared
    placement = placement_of(prepared.model)
    batches = job.data.train.source.batches(prepared.config.finetune_batch_size, first=REPAIR_SAMPLES)
    inputs = [placement.put(inputs) for inputs, _ in batches]
    with kept_modes(prepared.model):
        prepared.model.eval()
        return make_repair(
            prepared.config.repair, prepared.model, prepared.graph, calibration=inputs, lessons=inputs, seed=job.seed
        )


def _fit_bytes(job: TuningJob, prepared: Prepared, policy: Policy) -> tuple[Policy, Plan, nn.Module]:
    """Take away channels until the file, index included, is within the bound on bytes."""
    repair = _repair(job)
    while True:
        plan = make_plan(prepared.model, prepared.graph, policy, seed=job.seed)
        small = materialize(prepared.model, plan)
        repair.mend(small, plan)
        repair.settle(small, placement_of(small))
        if job.size_bound == float("inf"):
            return policy, plan, small
        dtype = _aimed_dtype(job)
        size = weigh(small, plan, with_storage(policy, prepared, dtype), job.provenance, dtype)
        if size <= job.size_bound:
            return policy, plan, small
        limit = prepared.cost("size_bytes")
        prepared = prepared.bounded_to("size_bytes", limit.maximum - 1.02 * (size - job.size_bound))
        policy = redecode(prepared, policy)


def _store(job: TuningJob, small: nn.Module, policy: Policy, plan: Plan) -> Tuned:
    """Choose how weights are stored, by what it does to the quality on the search split."""
    exact = _search_quality(job, small)
    dtype = _aimed_dtype(job)
    stored_policy = with_storage(policy, job.prepared, dtype)
    stored = pack.as_stored(small, policy=stored_policy, dtype=dtype)
    metrics = _search_quality(job, stored)
    may_choose = storage_dtype(job.prepared.config, job.target) == "auto"
    if may_choose and exact.quality - metrics.quality > HALF_PRECISION_TOLERANCE:
        dtype, stored_policy, stored, metrics = "fp32", with_storage(policy, job.prepared, "fp32"), small, exact
    return Tuned(
        model=stored,
        policy=stored_policy,
        plan=plan,
        dtype=dtype,
        metrics=metrics,
        size_bytes=weigh(stored, plan, stored_policy, job.provenance, dtype),
        epochs=(),
        seconds=0.0,
    )


def _aimed_dtype(job: TuningJob) -> Dtype:
    return "fp32" if storage_dtype(job.prepared.config, job.target) == "fp32" else "fp16"


def _search_quality(job: TuningJob, model: nn.Module) -> Metrics:
    return measure_quality(model, job.data.search.source, job.options.task, split="search", device=job.options.device)


def with_storage(policy: Policy, prepared: Prepared, dtype: Dtype) -> Policy:
    """The policy with every layer's form of storage written out."""
    storage = {layer.name: Raw(dtype=dtype) for layer in prepared.graph.layers} if dtype != "fp32" else {}
    return policy.model_copy(update={"storage": {**storage, **policy.storage}})


def weigh(model: nn.Module, plan: Plan, policy: Policy, provenance: Mapping[str, str], dtype: Dtype) -> int:
    """Bytes of the packed file."""
    return len(pack.packed_bytes(model, plan=plan, policy=policy, provenance=provenance, dtype=dtype))
