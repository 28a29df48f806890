"""Recipes that decide how weights are stored: a cut, fixed or searched, a search over forms, tuning of what is stored.

The network to be stored is searched as an original of its own: its layers have the original's names, so that what is
decided for them joins the policy that cut it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch import nn

from tersenet import pack
from tersenet.api.building import (
    CutNetwork,
    Tuned,
    TuningJob,
    aimed_dtype,
    code_and_tune,
    cut_by,
    measured_dense,
    weigh,
    with_storage,
)
from tersenet.api.costs import SIZE_AIM
from tersenet.api.prepare import Prepared, make_evaluator
from tersenet.api.pruning import search_cut
from tersenet.api.searching import Found, search
from tersenet.api.tuning import redecode
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import FloatArray
from tersenet.core.rules import ChannelRule
from tersenet.core.target import CostKind
from tersenet.envs import Budget, ChannelSpace, LookupCost, StorageSpace, refuse_unreachable, storage_form
from tersenet.errors import ModelError, TargetError
from tersenet.graph import ModelGraph, trace
from tersenet.measurement.placement import PlacedBatches, placement_of
from tersenet.recipes import StorageConfig
from tersenet.search import Study
from tersenet.train.sensitivity import mean_squared_gradients
from tersenet.transforms import (
    CodedWeights,
    Coder,
    clusterable_layers,
    make_plan,
    materialize,
    output_axis,
    squared_errors,
)

NUM_MEASURED = 24
"""Numbers of clusters whose bytes are computed per layer; between them log2(k) is interpolated."""

NUM_SENSITIVITY_SAMPLES = 128
"""Training inputs whose gradients say how much a layer matters, for the control ``rate_distortion``."""

MAX_TUNINGS = 4
"""Networks that are tuned at most until the file is within its bound."""

GROWTH = 0.0125
"""What a file grows by where weights may change their cluster while codebooks are tuned: they spread more evenly over
the entries. ResNet-20 at a twenty-fourth: 1.1 and 1.2 %; such a file would otherwise be tuned twice."""


def compress_storage(job: TuningJob, study: Study) -> tuple[Tuned, Found]:
    """Cut what the configuration says or a first search finds, search how to store what is left, tune it so."""
    first = None if job.prepared.recipe.build_first is None else search_cut(job, study)
    cut = cut_by(job, first_cut(job.prepared)) if first is None else first.cut
    _check_cut_bounds(job, cut)
    stage = prepare_storage(job, cut)
    evaluator = make_evaluator(stage, job.data, seed=job.seed, options=job.options)
    study.agree("first tuning", cut.tuned_by)  # a network tuned otherwise would not be the one that trials stored
    found = search(stage, study, evaluator, seed=job.seed, options=job.options)
    confirmed = tuple(one.model_copy(update={"policy": _joined(cut, one.policy)}) for one in found.confirmed)
    summary = None if first is None else first.summary
    found = replace(
        found, dense=measured_dense(job, skip=job.data.num_trial_samples), confirmed=confirmed, first_stage=summary
    )
    return _tune_within(job, stage, cut, found.winner), found


def first_cut(prepared: Prepared) -> Policy:
    """The same share cut from every group that may be, where no rule says another; where that is searched, as much as
    can be."""
    config, is_searched = prepared.config, prepared.recipe.build_first is not None
    assert isinstance(config, StorageConfig)
    if not isinstance(prepared.space, ChannelSpace):
        return Policy()
    share = 1.0 - config.lower_bound if is_searched else config.pruning_ratio
    channels = {}
    for index in prepared.space.indices:
        name = prepared.graph.channel_groups[int(index)].group_id
        rule = prepared.rules.get(name, ChannelRule())
        ratio = min(share, 1.0 - (rule.lower_bound or 0.0))
        ratio = ratio if rule.pruning_ratio is None else rule.pruning_ratio
        if ratio > 0.0:
            criterion = "l1" if is_searched else prepared.criterion(name)  # nothing is learned yet
            channels[name] = ChannelDecision(pruning_ratio=ratio, criterion=criterion)
    return Policy(channels=channels)


def smallest_stored(prepared: Prepared) -> dict[CostKind, float]:
    """What a recipe that decides storage can get every cost down to, before any tuning: the fixed cut, and the file
    with the fewest clusters or bits everywhere."""
    config, policy = prepared.config, first_cut(prepared)
    assert isinstance(config, StorageConfig)
    plan = make_plan(prepared.model, prepared.graph, policy, seed=0)
    small = materialize(prepared.model, plan)
    space = _space(prepared, ())
    storage = {layer: storage_form(space.kind, config.fewest) for layer in clusterable_layers(small, prepared.graph)}
    policy = policy.model_copy(update={"storage": storage})
    coded = Coder(max_k=max(2, config.fewest)).code(small, prepared.graph, storage)
    stored = pack.as_stored(small, policy=policy, dtype="fp16", norms="folded", coded=coded)
    counts = prepared.num_kept(policy)
    return {
        "macs": prepared.cost("macs").table.cost(counts),
        "params": prepared.cost("params").table.cost(counts),
        "size_bytes": float(weigh(stored, plan, policy, {}, "fp16", coded=coded)),
    }


def prepare_storage(job: TuningJob, cut: CutNetwork) -> Prepared:
    """The network to be stored, its layers, what each form of them costs, and the bound on all of it.

    Raises:
        ModelError: no layer can be stored in another form.
        TargetError: the bound on bytes cannot be reached.
    """
    config = job.prepared.config
    assert isinstance(config, StorageConfig)
    graph = trace(cut.model, job.prepared.example_inputs)
    layers = tuple(clusterable_layers(cut.model, graph))
    if not layers:
        raise ModelError("No layer of the network can be stored in another form: none has three different weights.")
    space = _space(job.prepared, layers)
    coder = Coder(max_k=max(2, config.most))
    table = _byte_table(job, cut, graph, layers, space, coder)
    limit = replace(job.prepared.cost("size_bytes"), table=table, maximum=SIZE_AIM * job.size_bound / _growth(job))
    refuse_unreachable(space, Budget(limits=(limit,)))
    return replace(
        job.prepared,
        model=cut.model,
        graph=graph,
        space=space,
        costs=(limit,),
        layers=layers,
        distortions=_distortions(job, cut.model, graph, layers, space, coder),
    )


def _space(prepared: Prepared, layers: tuple[str, ...]) -> StorageSpace:
    config, kind = prepared.config, prepared.recipe.decides[0]
    assert isinstance(config, StorageConfig)
    assert kind != "channels"
    assert kind != "kernels"
    return StorageSpace(
        num_decisions=len(layers),
        kind=kind,
        fewest=config.fewest,
        most=config.most,
        powers_of_two=config.powers_of_two,
    )


def _byte_table(
    job: TuningJob, cut: CutNetwork, graph: ModelGraph, layers: tuple[str, ...], space: StorageSpace, coder: Coder
) -> LookupCost:
    """Bytes of every layer at every count; what is left of the file is measured on one that is really packed."""
    measured = np.unique(np.rint(np.geomspace(space.fewest, space.most, NUM_MEASURED)).astype(np.int64))
    if space.kind == "weight_bits" or space.powers_of_two:
        measured = space.counts(0)
    tables = []
    for layer in layers:
        sizes = [
            sum(
                map(
                    pack.coded_bytes,
                    coder.code(cut.model, graph, {layer: storage_form(space.kind, int(count))}).values(),
                )
            )
            for count in measured
        ]
        tables.append(np.interp(np.log2(space.counts(0)), np.log2(measured), sizes))
    middle = int(measured[len(measured) // 2])
    policy = cut.policy.model_copy(update={"storage": {layer: storage_form(space.kind, middle) for layer in layers}})
    whole = _packed_size(job, cut, policy, coder.code(cut.model, graph, policy.storage))
    in_tables = LookupCost(tables, space.counts(0), 0.0).cost(np.full(len(layers), middle))
    return LookupCost(tables, space.counts(0), whole - in_tables)


def _packed_size(job: TuningJob, cut: CutNetwork, policy: Policy, coded: dict[str, CodedWeights]) -> int:
    dtype = aimed_dtype(job)
    stored = with_storage(policy, job.prepared, dtype)
    holding = pack.as_stored(cut.model, policy=stored, dtype=dtype, norms="folded", coded=coded)
    return weigh(holding, cut.plan, stored, job.provenance, dtype, coded=coded)


def _distortions(
    job: TuningJob, model: nn.Module, graph: ModelGraph, layers: tuple[str, ...], space: StorageSpace, coder: Coder
) -> Callable[[], list[FloatArray]]:
    def compute() -> list[FloatArray]:
        by_name = {layer.name: layer for layer in graph.layers}
        weights = [by_name[name].weight for name in layers]
        batches = PlacedBatches(job.data.train.source, placement_of(model), batch_size=1, first=NUM_SENSITIVITY_SAMPLES)
        matters = mean_squared_gradients(model, batches, weights, task=job.options.task)
        found = []
        for name, weight in zip(layers, weights, strict=True):
            tensor, axis = model.get_parameter(weight), output_axis(by_name[name])
            if space.kind == "clusters":
                errors = coder.clusters.curves(tensor, axis=axis).squared_errors[space.counts(0)]
            else:
                by_bits = squared_errors(tensor, axis=axis)
                errors = np.array([by_bits[int(count)] for count in space.counts(0)])
            found.append(matters[weight] * errors)
        return found

    return compute


def _check_cut_bounds(job: TuningJob, cut: CutNetwork) -> None:
    """Refuse a target on MACs or parameters that the fixed cut does not keep."""
    for limit in job.prepared.costs:
        cost = limit.table.cost(job.prepared.num_kept(cut.policy))
        if limit.kind != "size_bytes" and math.isfinite(limit.maximum) and cost > limit.maximum:
            raise TargetError(
                f"Target: {limit.asked} is not kept: recipe {job.prepared.recipe.name!r} cuts the same share of every "
                f"group, and pruning_ratio={job.prepared.config.model_dump()['pruning_ratio']:g} leaves "
                f"{100.0 * cost / limit.original:.1f} % of {limit.kind}. Raise pruning_ratio, or search channels first."
            )


def _joined(cut: CutNetwork, storage: Policy) -> Policy:
    """What cut the network, together with how what is left is stored."""
    return cut.policy.model_copy(update={"storage": storage.storage})


def _growth(job: TuningJob) -> float:
    """Bytes after tuning over those before, as far as one can tell."""
    return 1.0 + GROWTH if job.prepared.config.assignments == "straight_through" else 1.0


def _tune_within(job: TuningJob, stage: Prepared, cut: CutNetwork, winner: Policy) -> Tuned:
    """Tune the winner in its form; where the file is above its bound, before or after, take counts away and repeat."""
    coder = Coder()
    num_tuned = 0
    while True:
        policy = _joined(cut, winner)
        size = _packed_size(job, cut, policy, coder.code(cut.model, stage.graph, winner.storage))
        size = math.ceil(size * _growth(job))
        if size <= job.size_bound:
            tuned = code_and_tune(job, cut, policy, coder=coder)
            num_tuned += 1
            size = tuned.size_bytes
            if size <= job.size_bound or num_tuned == MAX_TUNINGS:
                return tuned
            job.options.progress.note(f"After tuning the file has {size:,} bytes: fewer counts, tuning again.")
        limit = stage.cost("size_bytes")
        stage = stage.bounded_to("size_bytes", limit.maximum - 1.02 * (size - job.size_bound))
        winner = redecode(stage, winner)
