"""A searched first stage: noise that says what channels and kernels are worth, a search over both, fine-tuning.

What comes out is a cut network like that of a fixed cut, so that the search over storage follows as it does there. The
stage has a study and a folder of its own; everything in it goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tersenet import pack
from tersenet.api.building import (
    CHECKPOINTS,
    CutNetwork,
    TuningJob,
    calibration_inputs,
    learn_repair,
    repaired,
    store,
    train_config,
    tuned_cut,
)
from tersenet.api.delivery import with_nonzero
from tersenet.api.folders import make_folder
from tersenet.api.options import PACKED_FILE
from tersenet.api.prepare import Prepared, make_evaluator
from tersenet.api.searching import Found, search
from tersenet.core.files import write_whole
from tersenet.core.protocols import IntArray
from tersenet.core.summary import StageSummary
from tersenet.criteria import Learned
from tersenet.envs import JointSpace, Limit, nonzero_params_limit, nothing_to_cut, refuse_unreachable
from tersenet.envs.joint_space import STEPS, threshold_levels
from tersenet.errors import ModelError
from tersenet.graph import ChannelCost, ModelGraph, duplicate, masked_cost_table, trace
from tersenet.recipes import make_space
from tersenet.recipes.zhan2019 import Zhan2019Config
from tersenet.search import Study
from tersenet.train import TrainConfig, learn_noise

STAGE_FOLDER = "stage1"
"""Inside the folder of the run: the study, the packed file and the summary of the first stage."""

STAGE_FILE = "stage.json"

LEAST_OF_BOUND = 0.1
"""The highest threshold that an agent can ask of a layer leaves this share of the units that may stay in all."""


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What the first stage ends with."""

    cut: CutNetwork
    """Tuned."""

    summary: StageSummary


def search_cut(job: TuningJob, study: Study) -> Pruned:
    """Learn what channels and units are worth, search how many stay, tune the winner.

    Args:
        study: that of the run; the stage's own has the same identity.

    Raises:
        TargetError: a bound cannot be reached.
        ModelError: nothing can be pruned.
    """
    config = job.prepared.config
    assert isinstance(config, Zhan2019Config)
    folder = make_folder(job.folder / STAGE_FOLDER)
    stage = _prepare_stage(job, config)
    refuse_unreachable(stage.space, stage.budget)  # before anything is spent
    stage = _with_noise(job, stage, config)
    evaluator = make_evaluator(stage, job.data, seed=job.seed, options=job.options)
    identity = study.fact("identity")
    assert isinstance(identity, dict)
    with Study(folder / "study.sqlite", identity={name: str(fact) for name, fact in identity.items()}) as own:
        own.agree("training with noise", {"checkpoint": _noise_checkpoint(job, config).stem})
        # another cut would be another network, of which the trials of the second stage know nothing
        found = search(stage, own, evaluator, seed=job.seed, options=replace(job.options, deliver=None))
        own.check_in_place()
    with_stage = replace(job, prepared=stage)
    # the original network teaches, since it knows most
    cut = repaired(with_stage, learn_repair(with_stage), found.winner)
    cut = tuned_cut(replace(job, prepared=replace(job.prepared, config=stage.config)), cut)
    return Pruned(cut=cut, summary=_kept(job, cut, found, folder))


def _prepare_stage(job: TuningJob, config: Zhan2019Config) -> Prepared:
    """The decisions of the stage and what they cost."""
    prepared, graph = job.prepared, job.prepared.graph
    layers = _layers(graph, config)
    steps = np.array([_steps(graph, name, config) for name in layers], dtype=np.int64)
    channels = nothing_to_cut(graph) if config.prunes == "kernels" else make_space(graph, config, prepared.rules)
    space = JointSpace(
        channels=channels,
        steps=steps,
        fewest=np.maximum(1, np.ceil(config.units_lower_bound * steps - 1e-9)).astype(np.int64),
        order=_order(graph, channels.indices, layers),
        unit=config.unit,
        unit_criterion=config.criterion_of_units,
    )
    nonzero_macs = masked_cost_table(graph, "macs", layers, unit=config.unit, steps=steps)
    nonzero_params = masked_cost_table(graph, "params", layers, unit=config.unit, steps=steps)
    macs, params = prepared.cost("macs"), prepared.cost("params")
    costs = (
        replace(macs, table=ChannelCost(nonzero_macs.dense)),
        replace(params, table=ChannelCost(nonzero_params.dense)),
        Limit(
            kind="nonzero_macs",
            table=nonzero_macs,
            maximum=config.max_flops_ratio * macs.original,
            original=macs.original,
            asked=f"max_flops_ratio={config.max_flops_ratio:g}",
        ),
        nonzero_params_limit(nonzero_params, original=params.original, max_nonzero_ratio=config.max_nonzero_ratio),
    )
    build = prepared.recipe.build_first
    assert build is not None
    return replace(
        prepared,
        recipe=replace(prepared.recipe, build=build, decides=("channels",)),
        config=config.of_stage_1(),
        space=space,
        costs=costs,
        layers=layers,
    )


def _layers(graph: ModelGraph, config: Zhan2019Config) -> tuple[str, ...]:
    """Layers that are pruned inside: all but the last with more than one unit, for positions those with kernels."""
    if config.prunes == "channels":
        return ()
    needs_kernels = config.unit in ("position", "filter_position")
    names = tuple(
        layer.name
        for layer in graph.layers[:-1]
        if layer.op != "conv_transpose" and (math.prod(layer.kernel_size) > 1 or not needs_kernels)
    )
    if not names:
        raise ModelError(f"No layer can be pruned inside by unit={config.unit!r}. Set prunes to 'channels'.")
    return names


def _steps(graph: ModelGraph, name: str, config: Zhan2019Config) -> int:
    if config.unit != "position":
        return STEPS
    return math.prod(next(layer.kernel_size for layer in graph.layers if layer.name == name))


def _order(graph: ModelGraph, groups: IntArray, layers: tuple[str, ...]) -> IntArray:
    """Decisions as they come in the network: what a group's first producer makes, then what is inside a layer."""
    places = {layer.name: place for place, layer in enumerate(graph.layers)}
    first = [min(places.get(name, 0) for name in graph.channel_groups[int(index)].producers) for index in groups]
    keys = [2 * place for place in first] + [2 * places[name] + 1 for name in layers]
    return np.argsort(np.array(keys, dtype=np.int64), kind="stable").astype(np.int64)


def _with_noise(job: TuningJob, stage: Prepared, config: Zhan2019Config) -> Prepared:
    """The stage with what a copy of the network told that was trained with noise; as it is where nothing asks for it.

    The weights stay those of the network as it came: noise that prunes takes most of what it knows within few epochs.
    """
    if not (config.learns_units or config.learns_channels):
        return stage
    noisy = duplicate(job.prepared.model)
    learned = learn_noise(
        noisy,
        job.prepared.graph,
        job.data.train,
        job.data.search,
        _learning(job, config),
        calibration=calibration_inputs(job),
        channels=config.learns_channels,
        unit=config.unit if config.learns_units else None,
        beta=config.beta,
        teacher=job.prepared.model if config.distill_weight > 0 else None,
        task=job.options.task,
        checkpoint=_noise_checkpoint(job, config),
        progress=job.options.progress,
    )
    _check_learned(stage, learned, config)
    return replace(stage, learned=learned, space=_with_thresholds(stage, learned, config))


def _with_thresholds(stage: Prepared, learned: Learned, config: Zhan2019Config) -> JointSpace:
    """The space of the stage, in which equal numbers mean one threshold on what was learned, where that is wanted."""
    space = stage.space
    assert isinstance(space, JointSpace)
    if not config.decides_thresholds:
        return space
    scores = [learned.units[name].float().numpy() for name in stage.layers]
    least = LEAST_OF_BOUND * (config.max_nonzero_ratio or config.max_flops_ratio)
    return replace(space, levels=threshold_levels(scores, space.steps, least=least))


def _check_learned(stage: Prepared, learned: Learned, config: Zhan2019Config) -> None:
    missing = [name for name in stage.layers if name not in learned.units] if config.learns_units else []
    if missing:
        raise ModelError(
            f"Layer {missing[0]!r} cannot have noise, because it is not one of torch's own layers, so that nothing "
            "says which of its units to keep. Set unit_criterion to 'l1'."
        )


def _learning(job: TuningJob, config: Zhan2019Config) -> TrainConfig:
    """How the network is trained with noise: like fine-tuning, but for epochs and learning rate."""
    changes = {"epochs": config.noise_epochs, "learning_rate": config.noise_learning_rate}
    return train_config(job).model_copy(update=changes)


def _noise_checkpoint(job: TuningJob, config: Zhan2019Config) -> Path:
    """One file per way to train with noise; its name also tells the stage's study which way it was."""
    learning = _learning(job, config).model_dump_json(exclude={"device"})
    how = f"{learning} {config.unit} {config.learns_units} {config.learns_channels} {config.beta}"
    return job.folder / CHECKPOINTS / f"noise-{hashlib.sha256(how.encode()).hexdigest()[:16]}.pt"


def _kept(job: TuningJob, cut: CutNetwork, found: Found, folder: Path) -> StageSummary:
    """Write the stage's network and summary."""
    tuned = store(job, cut, {})
    size = pack.save_packed(
        folder / PACKED_FILE,
        tuned.model,
        plan=tuned.plan,
        policy=tuned.policy,
        provenance=job.provenance,
        dtype=tuned.dtype,
    )
    counted = trace(tuned.model, job.prepared.example_inputs)
    costs = {"macs": counted.macs, "num_params": counted.num_params, "size_bytes": size}
    summary = StageSummary(
        policy=cut.policy,
        untuned=found.untuned.metrics,
        tuned=with_nonzero(tuned.metrics, tuned.model, counted, cut.policy).model_copy(update=costs),
        trials=found.trials,
        confirmed=found.confirmed,
        epochs=cut.epochs,
        seconds={"search": found.search_seconds, "confirm": found.confirm_seconds, "finetune": cut.seconds},
    )
    write_whole(folder / STAGE_FILE, summary.model_dump_json(indent=1).encode())
    return summary
