"""The steps from a policy to a network as it will be delivered: cut, repair, tune, code, tune again, store."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from torch import nn

from tersenet import pack
from tersenet.api.costs import storage_dtype
from tersenet.api.options import CompressOptions
from tersenet.api.prepare import Prepared
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy, Raw
from tersenet.core.summary import EpochPoint
from tersenet.core.target import Target
from tersenet.data import Data
from tersenet.data.splits import Inputs
from tersenet.errors import PolicyError
from tersenet.evaluators import Repair, make_repair
from tersenet.graph import duplicate
from tersenet.measurement import measure_quality
from tersenet.measurement.placement import kept_modes, placement_of
from tersenet.recipes import TUNING
from tersenet.train import FitResult, TrainConfig, attach_coded, detach_coded, fit, held_zeros, kept_zeros
from tersenet.transforms import CodedWeights, Coder, make_plan, materialize

Dtype = Literal["fp32", "fp16"]

CHECKPOINTS = "checkpoints"
"""Folder inside that of the run."""

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
    """How weights are stored that are stored plainly."""

    coded: Mapping[str, CodedWeights]
    """Weights stored as clusters or linear integers, by name of the tensor; the model holds their values."""

    metrics: Metrics
    """On the whole search split."""

    size_bytes: int
    """Of the packed file."""

    epochs: tuple[EpochPoint, ...]
    seconds: float

    tuning_helped: bool = True
    """Whether an epoch of fine-tuning was at least as good as the network before it."""

    @property
    def norms(self) -> pack.Norms:
        """How batch norms are stored: small next to coded weights, so that the file is what the policy made it."""
        return "folded" if self.coded else "full"


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


@dataclass(frozen=True, kw_only=True)
class CutNetwork:
    """A network whose channels were cut, before it is decided how its weights are stored."""

    model: nn.Module
    policy: Policy
    plan: Plan
    repair: Repair
    epochs: tuple[EpochPoint, ...] = ()
    seconds: float = 0.0

    tuning_helped: bool = True
    """See ``Tuned``."""

    tuned_by: Mapping[str, str] = field(default_factory=dict)
    """Settings of the tuning, by name; none if it was not tuned."""


def repaired(job: TuningJob, repair: Repair, policy: Policy) -> CutNetwork:
    """Cut what the policy says, and repair the network."""
    prepared = job.prepared
    plan = make_plan(prepared.model, prepared.graph, policy, seed=job.seed, learned=prepared.learned)
    if plan.masks and prepared.config.repair == "reconstruct":
        raise PolicyError(
            "repair='reconstruct' refits whole filters, so it cannot keep what policy.kernels prunes. Set repair to "
            "'recalibrate' or 'distill'."
        )
    small = materialize(prepared.model, plan)
    if not plan.is_empty:
        with kept_zeros(small, list(plan.masks)):
            repair.mend(small, plan)
        repair.settle(small, placement_of(small))
    return CutNetwork(model=small, policy=policy, plan=plan, repair=repair)


def tuned_cut(job: TuningJob, cut: CutNetwork) -> CutNetwork:
    """The same after fine-tuning, in place."""
    with held_zeros(cut.model, list(cut.plan.masks)):
        fitted = _fit(job, cut.model, cut.policy.model_copy(update={"storage": {}}), stage="fine-tune")
    settings = {name: str(getattr(job.prepared.config, name)) for name in TUNING}
    return replace(cut, epochs=fitted.epochs, seconds=fitted.seconds, tuning_helped=_helped(fitted), tuned_by=settings)


def cut_by(job: TuningJob, policy: Policy) -> CutNetwork:
    """Cut what the policy says and tune the network; one that is not cut is taken as it is."""
    cut = repaired(job, learn_repair(job), policy)
    return cut if cut.plan.is_empty else tuned_cut(job, cut)


def code_and_tune(job: TuningJob, cut: CutNetwork, policy: Policy, *, coder: Coder) -> Tuned:
    """Code the weights as ``policy.storage`` says, tune shared values and step sizes, and weigh the file.

    Args:
        cut: the network; a copy of it is coded.
        policy: with the channels of ``cut``.
        coder: what it has coded before is looked up.
    """
    small = duplicate(cut.model)
    with held_zeros(small, list(cut.plan.masks)):
        coded = coder.code(small, job.prepared.graph, policy.storage)
        attach_coded(small, coded, assignments=job.prepared.config.assignments)
        cut.repair.settle(small, placement_of(small))
        fitted = _fit(job, small, policy, stage="fine-tune coded")
        coded = detach_coded(small)
    helped = cut.tuning_helped and _helped(fitted)
    tuned = store(job, replace(cut, model=small, policy=policy, tuning_helped=helped), coded)
    later = (point.model_copy(update={"epoch": point.epoch + len(cut.epochs)}) for point in fitted.epochs)
    return replace(tuned, epochs=(*cut.epochs, *later), seconds=cut.seconds + fitted.seconds)


def calibration_inputs(job: TuningJob) -> list[Inputs]:
    """Training inputs that statistics are measured on, distorted as in training."""
    placement = placement_of(job.prepared.model)
    size = job.prepared.config.finetune_batch_size
    batches = job.data.train.source.batches(size, shuffle_seed=job.seed, augment=True, first=REPAIR_SAMPLES)
    return [placement.put(inputs) for inputs, _ in batches]


def learn_repair(job: TuningJob) -> Repair:
    """What trials were repaired by, learned from more samples."""
    prepared, inputs = job.prepared, calibration_inputs(job)
    with kept_modes(prepared.model):
        prepared.model.eval()
        return make_repair(
            prepared.config.repair, prepared.model, prepared.graph, calibration=inputs, lessons=inputs, seed=job.seed
        )


def store(job: TuningJob, cut: CutNetwork, coded: Mapping[str, CodedWeights]) -> Tuned:
    """Choose how plain weights are stored, by what it does to the quality on the search split."""
    exact = _search_quality(job, cut.model)
    found = _stored_as(job, cut, coded, dtype=aimed_dtype(job))
    may_choose = storage_dtype(job.prepared.config, job.target) == "auto"
    if may_choose and exact.quality - found.metrics.quality > HALF_PRECISION_TOLERANCE:
        found = _stored_as(job, cut, coded, dtype="fp32")
    size = weigh(found.model, cut.plan, found.policy, job.provenance, found.dtype, coded=coded)
    return replace(found, size_bytes=size)


def _stored_as(job: TuningJob, cut: CutNetwork, coded: Mapping[str, CodedWeights], *, dtype: Dtype) -> Tuned:
    found = Tuned(
        model=cut.model,
        policy=with_storage(cut.policy, job.prepared, dtype),
        plan=cut.plan,
        dtype=dtype,
        coded=coded,
        metrics=Metrics(),
        size_bytes=0,
        epochs=(),
        seconds=0.0,
        tuning_helped=cut.tuning_helped,
    )
    is_exact = dtype == "fp32" and not coded
    stored = cut.model
    if not is_exact:
        stored = pack.as_stored(cut.model, policy=found.policy, dtype=dtype, norms=found.norms, coded=coded)
    return replace(found, model=stored, metrics=_search_quality(job, stored))


def _fit(job: TuningJob, small: nn.Module, policy: Policy, *, stage: str) -> FitResult:
    config, options = job.prepared.config, job.options
    if config.finetune_epochs == 0:
        return FitResult(
            epochs=(), best_epoch=0, best_quality=math.nan, seconds=0.0, autocast=False, channels_last=False
        )
    return fit(
        small,
        job.data.train,
        job.data.search,
        train_config(job),
        teacher=job.prepared.model if config.distill_weight > 0 else None,
        task=options.task,
        checkpoint=_checkpoint(job, policy),
        progress=options.progress,
        stage=stage,
        starts_best=True,
    )


def _helped(fitted: FitResult) -> bool:
    return fitted.best_epoch > 0 or not fitted.epochs


def train_config(job: TuningJob) -> TrainConfig:
    """How the recipe fine-tunes."""
    config = job.prepared.config
    return TrainConfig(
        epochs=config.finetune_epochs,
        batch_size=config.finetune_batch_size,
        learning_rate=config.finetune_learning_rate,
        distill_weight=config.distill_weight,
        label_smoothing=config.label_smoothing,
        device=job.options.device,
        seed=job.seed,
    )


def _checkpoint(job: TuningJob, policy: Policy) -> Path:
    """One file per policy and way to tune it, so that another learning rate starts anew and finds no stranger's."""
    loss = getattr(job.options.task.loss, "__qualname__", "")
    how = f"{train_config(job).model_dump_json(exclude={'device'})} {job.prepared.config.assignments} {loss}"
    digest = hashlib.sha256(how.encode()).hexdigest()[:8]
    return job.folder / CHECKPOINTS / f"finetune-{policy.digest()}-{digest}.pt"


def aimed_dtype(job: TuningJob) -> Dtype:
    """How plain weights are stored if that costs no quality."""
    return "fp32" if storage_dtype(job.prepared.config, job.target) == "fp32" else "fp16"


def measured_dense(job: TuningJob, *, skip: int = 0, first: int | None = None) -> Evaluation:
    """The original network on some of the search images; it costs no trial."""
    source, task = job.data.search.source, job.options.task
    metrics = measure_quality(
        job.prepared.model, source, task, split="search", device=job.options.device, skip=skip, first=first
    )
    return Evaluation(metrics=metrics, seconds=0.0)


def _search_quality(job: TuningJob, model: nn.Module) -> Metrics:
    return measure_quality(model, job.data.search.source, job.options.task, split="search", device=job.options.device)


def with_storage(policy: Policy, prepared: Prepared, dtype: Dtype) -> Policy:
    """The policy with every layer's form of storage written out."""
    storage = {layer.name: Raw(dtype=dtype) for layer in prepared.graph.layers} if dtype != "fp32" else {}
    return policy.model_copy(update={"storage": {**storage, **policy.storage}})


def weigh(
    model: nn.Module,
    plan: Plan,
    policy: Policy,
    provenance: Mapping[str, str],
    dtype: Dtype,
    *,
    coded: Mapping[str, CodedWeights] | None = None,
) -> int:
    """Bytes of the packed file; batch norms are folded where weights are coded."""
    norms: pack.Norms = "folded" if coded else "full"
    content = pack.packed_bytes(
        model, plan=plan, policy=policy, provenance=provenance, dtype=dtype, norms=norms, coded=coded
    )
    return len(content)
