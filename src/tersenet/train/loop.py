"""Training and fine-tuning of any network on any source, with distillation, checkpoints and exact resume.

Plain stochastic gradient descent: batches, augmentation and dropout of an epoch are drawn from (seed, epoch) alone,
the learning rate from the samples seen, so that a run that goes on from a checkpoint ends with the same weights, bit
for bit on a CPU, as one that was never interrupted. The weights of the epoch that is best on the search split stay.

torch can flush denormal numbers, which slow x86 down, only for the whole process; weights that small are set to zero
at the end instead.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tersenet.core.progress import Progress, Silent
from tersenet.core.summary import EpochPoint
from tersenet.data.splits import Inputs, SearchSplit, TrainSplit
from tersenet.errors import DataError
from tersenet.measurement.metrics import measure_quality
from tersenet.measurement.placement import (
    Batch,
    kept_modes,
    on_device,
    placement_for,
    takes_channels_last,
)
from tersenet.measurement.task import Task
from tersenet.train.checkpoint import TrainState, load_checkpoint, run_key, save_checkpoint
from tersenet.train.config import TrainConfig
from tersenet.train.epoch import Penalty, Run, loss_function, num_images, own_randomness, tell, train_epoch
from tersenet.train.losses import distill_loss
from tersenet.train.memory import enough_memory
from tersenet.train.optimizer import make_optimizer
from tersenet.train.precision import choose_placement
from tersenet.train.teacher import Teacher

_TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a training went; the best weights are in the model."""

    epochs: tuple[EpochPoint, ...]

    best_epoch: int
    """From 1; 0 if there were no epochs, or none was as good as what it began with (``starts_best``)."""

    best_quality: float
    """On the search split."""

    seconds: float
    """Over all epochs, interrupted runs included."""

    autocast: bool
    """Whether bfloat16 was used."""

    channels_last: bool
    """Whether inputs were laid out channels last."""


def fit(
    model: nn.Module,
    data_train: TrainSplit,
    search: SearchSplit,
    config: TrainConfig,
    *,
    teacher: nn.Module | None = None,
    task: Task = Task(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    stage: str = "fine-tune",
    penalty: Penalty | None = None,
    keeps_best: bool = True,
    starts_best: bool = False,
) -> FitResult:
    """Train ``model`` in place; at return it holds the weights of the epoch that was best on the search split.

    Args:
        model: trained where ``config.device`` says, then put back in its former mode and device.
        data_train: what is learned from, augmented as the data set says.
        search: what chooses the best epoch.
        config: how to train.
        teacher: the original network; used if ``config.distill_weight`` is above 0, not changed.
        task: the user's own metric and loss; classification without.
        checkpoint: file written after each epoch, and gone on from if it is there.
        progress: told of training images seen.
        stage: name of this training for ``progress``.
        penalty: added to the loss of every step, from the epochs passed by then; what it holds beside the model is not
            part of the checkpoint.
        keeps_best: otherwise the weights of the last epoch stay.
        starts_best: whether the weights it begins with stay if no epoch is at least as good.

    Raises:
        DataError: there are no training or search samples, or the labels do not fit the outputs.
        ModelError: the network fails on the data, or returns what the loss cannot use.
        TrainingError: the loss is not finite, memory runs out, nothing can be trained, or the checkpoint is of another
            run.
        SearchError: the user's metric fails.
        UnknownNameError: there is no such device.
    """
    if teacher is model:
        raise ValueError("teacher must be another network than model, since model changes while it is trained.")
    progress = Silent() if progress is None else progress
    placement = placement_for(model, config.device)
    with ExitStack() as restored:
        for module in (model,) if teacher is None else (model, teacher):
            restored.enter_context(kept_modes(module))
            restored.enter_context(on_device(module, placement.device))
        key = run_key(model, config, num_train=data_train.source.num_samples, num_search=search.source.num_samples)
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = load_checkpoint(checkpoint, key) if checkpoint is not None and checkpoint.exists() else None
        run = Run(
            model=model,
            train=data_train,
            search=search,
            config=config,
            task=task,
            placement=placement,
            optimizer=make_optimizer(model, config),
            progress=progress,
            stage=stage,
            penalty=penalty,
            keeps_best=keeps_best,
            starts_best=starts_best,
        )
        batch = _first_batch(run)
        state = _prepared(run, state, batch)
        if teacher is not None and config.distill_weight > 0:
            _settle_teacher(run, teacher, batch[0], folder=None if checkpoint is None else checkpoint.parent)
        progress.start(stage, num_images(run, config.epochs), done=num_images(run, state.epoch))
        for epoch in range(state.epoch + 1, config.epochs + 1):
            _do_epoch(run, state, epoch)
            if checkpoint is not None:
                save_checkpoint(checkpoint, state, key)
            if run.teacher is not None:
                run.teacher.end()
            tell(run, epoch, num_images(run, epoch), state.history[-1])
        model.load_state_dict(state.best_model)
        _clear_tiny_weights(model)
        run.optimizer.zero_grad()
        progress.finish(stage)
    return _result(state)


def _first_batch(run: Run) -> Batch:
    with own_randomness(run, epoch=0):
        batch = next(iter(run.train.source.batches(run.config.batch_size)), None)
    if batch is None:
        raise DataError("The training split yields no batches. Give it at least one sample.")
    return batch


def _prepared(run: Run, state: TrainState | None, batch: Batch) -> TrainState:
    """Settle the placement; put a saved state back, or make the one before the first epoch."""
    if state is None:
        with own_randomness(run, epoch=0):
            run.model.train()
            run.placement = choose_placement(run.model, batch, loss_function(run), run.config, run.placement)
        quality = _quality(run) if run.config.epochs == 0 or run.starts_best else -math.inf
        state = TrainState(
            epoch=0,
            model={},
            optimizer={},
            best_model=_copied_weights(run.model),
            best_epoch=0,
            best_quality=quality,
            history=[],
            autocast=run.placement.autocast,
            channels_last=run.placement.channels_last,
        )
    else:
        run.placement = replace(run.placement, autocast=state.autocast, channels_last=state.channels_last)
        run.model.load_state_dict(state.model)
        run.optimizer.load_state_dict(state.optimizer)
    return state


def _settle_teacher(run: Run, teacher: nn.Module, inputs: Inputs, *, folder: Path | None) -> None:
    teacher.eval()
    run.model.eval()
    with torch.no_grad(), enough_memory(inputs):
        fits = takes_channels_last(teacher, inputs, run.placement)
        placement = replace(run.placement, channels_last=fits)
        run.teacher = Teacher(teacher, placement, folder=folder, seed=run.config.seed)
        ours = run.placement.forward(run.model, run.placement.put(inputs))
        theirs = run.teacher.ask(inputs)
    run.distill = distill_loss(ours, theirs, task=run.task, config=run.config)
    if run.distill is None:
        run.progress.note(
            "Distillation is off: it needs outputs that are one tensor, of the same shape for the network and for the "
            "original."
        )


def _do_epoch(run: Run, state: TrainState, epoch: int) -> None:
    """Train and measure one epoch and write it into ``state``."""
    begin = time.perf_counter()
    if run.teacher is not None:
        run.teacher.begin(epoch)
    run.model.train()
    with own_randomness(run, epoch=epoch):
        loss, learning_rate = train_epoch(run, epoch)
    quality = _quality(run)
    if quality >= state.best_quality or not run.keeps_best:
        state.best_quality, state.best_epoch, state.best_model = quality, epoch, _copied_weights(run.model)
    point = EpochPoint(
        epoch=epoch,
        train_loss=loss,
        quality=quality,
        learning_rate=learning_rate,
        seconds=time.perf_counter() - begin,
    )
    state.history.append(point.model_dump())
    state.epoch = epoch
    state.model, state.optimizer = run.model.state_dict(), run.optimizer.state_dict()


def _quality(run: Run) -> float:
    return measure_quality(run.model, run.search.source, run.task, split="search", device=run.config.device).quality


def _copied_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _clear_tiny_weights(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.masked_fill_(parameter.abs() < _TINY, 0.0)


def _result(state: TrainState) -> FitResult:
    points = tuple(EpochPoint.model_validate(entry) for entry in state.history)
    return FitResult(
        epochs=points,
        best_epoch=state.best_epoch,
        best_quality=state.best_quality,
        seconds=sum(point.seconds for point in points),
        autocast=state.autocast,
        channels_last=state.channels_last,
    )
