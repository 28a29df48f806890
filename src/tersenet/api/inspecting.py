"""What is there before anything is spent: layers, groups, reachable targets, predicted time."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from tersenet import recipes
from tersenet.api.delivery import group_rows, layer_rows
from tersenet.api.looking import look, plain
from tersenet.api.options import CompressOptions
from tersenet.api.prepare import Prepared, configure, make_evaluator, prepare
from tersenet.api.storing import first_cut, smallest_stored
from tersenet.api.tuning import redecode
from tersenet.core.policy import Policy
from tersenet.core.summary import Inspection, Reachable
from tersenet.core.target import Target
from tersenet.data import Data, First, SearchSplit, TrainSplit
from tersenet.envs import apply_rules, reachable
from tersenet.errors import DataError, ModelError, TargetError
from tersenet.graph import ModelGraph
from tersenet.recipes.khatri2020 import Khatri2020Config
from tersenet.train import TrainConfig, fit

TIMED_SAMPLES = 512
"""Training images of the step that predicts how long fine-tuning takes."""


def inspect(
    model: nn.Module,
    *,
    data: Data | None = None,
    example_inputs: tuple[Tensor, ...] | None = None,
    target: Target | None = None,
    recipe: str = "he2018",
    options: CompressOptions | None = None,
) -> Inspection:
    """Look at a network without changing or searching anything.

    Args:
        data: gives the inputs, and lets search and fine-tuning be timed on one trial and a few steps.
        example_inputs: inputs for the network where there is no data; batch axis first, two samples.
        target: shown beside what can be reached; an unreachable one is shown as such and not refused.

    Raises:
        DataError: neither ``data`` nor ``example_inputs`` is given.
        ModelError: the network cannot be traced.
    """
    options = options or CompressOptions()
    inputs = data.example_inputs() if data is not None else example_inputs
    if inputs is None:
        raise DataError("inspect needs data or example_inputs to run the network on. Give one of them.")
    configure(recipes.get(recipe), options)
    model, plain_notes = plain(model)
    graph, notes = look(model, inputs)
    notes = (*plain_notes, *notes)
    try:
        prepared = prepare(model, inputs, target=None, recipe=recipe, options=options, looked=(graph, notes))
    except ModelError as error:  # nothing can be cut: say so, and show why, group by group
        ruled = apply_rules(graph, options.rules, prune_residual=True).graph
        return _inspection(ruled, None, (*notes, str(error)), options=options, data=data)
    rows = _reachable(prepared, target)
    seconds = _predicted(prepared, data, target, options) if data is not None else (None, None)
    return _inspection(prepared.graph, prepared, prepared.notes, options=options, data=data, rows=rows, seconds=seconds)


def _inspection(
    graph: ModelGraph,
    prepared: Prepared | None,
    notes: tuple[str, ...],
    *,
    options: CompressOptions,
    data: Data | None,
    rows: tuple[Reachable, ...] = (),
    seconds: tuple[float | None, float | None] = (None, None),
) -> Inspection:
    return Inspection(
        model=options.model_name,
        data=data.name if data is not None else "",
        macs=graph.macs,
        num_params=graph.num_params,
        original_bytes=graph.original_bytes,
        layers=layer_rows(graph, graph, Policy()),
        groups=group_rows(graph, prepared.space if prepared is not None else None, {}),
        reachable=rows,
        not_counted=graph.not_counted,
        search_seconds=seconds[0],
        finetune_seconds=seconds[1],
        notes=notes,
        staircase=prepared.staircase if prepared is not None else None,
    )


def _reachable(prepared: Prepared, target: Target | None) -> tuple[Reachable, ...]:
    smallest = smallest_stored(prepared) if prepared.recipe.stores else {}
    original = {limit.kind: limit.original for limit in prepared.costs}
    bounds = target.limits(original) if target is not None else {}
    return tuple(
        Reachable(
            kind=limit.kind,
            original=limit.original,
            smallest=smallest[limit.kind] if smallest else reachable(prepared.space, limit.table),
            bound=bounds.get(limit.kind),
        )
        for limit in prepared.costs
    )


def _predicted(prepared: Prepared, data: Data, target: Target | None, options: CompressOptions) -> tuple[float, float]:
    if isinstance(prepared.config, Khatri2020Config):
        live_seconds = prepared.config.live_epochs * _epoch_seconds(prepared, data, options)
        return live_seconds, _finetune_seconds(prepared, data, options)
    evaluator = make_evaluator(prepared, data, seed=0, options=options)
    trial = evaluator.evaluate(_typical_policy(prepared, target, options))
    controls = sum(recipes.get(name).num_trials(prepared.config) for name in options.controls)
    own = prepared.recipe.num_trials(prepared.config)
    return trial.seconds * (own + controls), _finetune_seconds(prepared, data, options)


def _typical_policy(prepared: Prepared, target: Target | None, options: CompressOptions) -> Policy:
    if prepared.recipe.stores:
        return first_cut(prepared)
    if target is None:
        return Policy()
    try:
        bounded = prepare(
            prepared.model,
            prepared.example_inputs,
            target=target,
            recipe=prepared.recipe.name,
            options=options,
            looked=(prepared.graph, prepared.notes),
        )
    except TargetError:
        return Policy()
    return redecode(bounded, Policy())


def _finetune_seconds(prepared: Prepared, data: Data, options: CompressOptions) -> float:
    epochs = prepared.config.finetune_epochs
    if epochs == 0:
        return 0.0
    num_tunings = 2 if prepared.recipe.stores and first_cut(prepared).channels else 1
    return num_tunings * epochs * _epoch_seconds(prepared, data, options)


def _epoch_seconds(prepared: Prepared, data: Data, options: CompressOptions) -> float:
    """From a short training of the whole network: an upper estimate, since the cut one is smaller."""
    config = TrainConfig(
        epochs=1,
        batch_size=prepared.config.finetune_batch_size,
        learning_rate=1e-6,
        distill_weight=prepared.config.distill_weight,
        device=options.device,
        seed=0,
    )
    few = min(TIMED_SAMPLES, data.train.source.num_samples)
    fitted = fit(
        copy.deepcopy(prepared.model),
        TrainSplit(First(data.train.source, few)),
        SearchSplit(First(data.search.source, few)),
        config,
        teacher=prepared.model,
        task=options.task,
    )
    return fitted.seconds * data.train.source.num_samples / few
