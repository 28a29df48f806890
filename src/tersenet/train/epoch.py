"""One epoch of training: steps, learning rate, distillation, and what is told meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.progress import Progress
from tersenet.data.splits import Inputs, SearchSplit, TrainSplit
from tersenet.errors import DataError, TrainingError
from tersenet.measurement.placement import Placement, num_in
from tersenet.measurement.task import Task
from tersenet.train.config import TrainConfig
from tersenet.train.losses import DistillLoss, task_loss
from tersenet.train.memory import enough_memory
from tersenet.train.recalibrate import batch_norms
from tersenet.train.schedule import learning_rate_at
from tersenet.train.teacher import Teacher

_SECONDS_BETWEEN_UPDATES = 0.25


Penalty = Callable[[float], Tensor]
"""What is added to a step's loss, shape (), after its forward pass; from the epochs that have passed."""


@dataclass(kw_only=True)
class Run:
    """One training while it goes on."""

    model: nn.Module
    train: TrainSplit
    search: SearchSplit
    config: TrainConfig
    task: Task
    placement: Placement
    optimizer: torch.optim.Optimizer
    teacher: Teacher | None = None
    distill: DistillLoss | None = None
    progress: Progress
    stage: str
    penalty: Penalty | None = None
    keeps_best: bool = True
    starts_best: bool = False
    last_update: float = 0.0


def train_epoch(run: Run, epoch: int) -> tuple[float, float]:
    """One pass over the training split; mean loss over its samples and the last learning rate."""
    num_samples = run.train.source.num_samples
    num_seen, loss_sum, num_trained, learning_rate = 0, 0.0, 0, 0.0
    skips_single = bool(batch_norms(run.model)) and num_samples > 1
    seed = int(np.random.SeedSequence((run.config.seed, epoch)).generate_state(1)[0])
    for inputs, targets in run.train.source.batches(run.config.batch_size, shuffle_seed=seed, augment=True):
        size = num_in(inputs)
        moment = epoch - 1 + (num_seen + size / 2) / num_samples
        num_seen += size
        if size == 1 and skips_single:  # batch norms cannot be trained on one sample
            continue
        learning_rate = learning_rate_at(
            moment,
            highest=run.config.learning_rate,
            epochs=run.config.epochs,
            warmup_epochs=run.config.warmup_epochs,
        )
        with enough_memory(inputs):
            loss = _step(run, inputs, targets, learning_rate, moment)
        if not math.isfinite(loss):
            raise _diverged(loss, epoch, learning_rate)
        loss_sum += loss * size
        num_trained += size
        if time.perf_counter() - run.last_update > _SECONDS_BETWEEN_UPDATES:
            tell(run, epoch, num_images(run, epoch - 1) + num_seen, {"train_loss": loss_sum / num_trained})
    if num_trained == 0:
        raise DataError(
            f"The training split yielded no usable batches in epoch {epoch}. If it is a generator, give a list or a "
            "DataLoader, which can be gone through again; with batch norms, give batches of at least two samples."
        )
    return loss_sum / num_trained, learning_rate


def _step(run: Run, inputs: Inputs, targets: Any, learning_rate: float, moment: float) -> float:
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    run.optimizer.zero_grad()
    outputs = run.placement.forward(run.model, run.placement.put(inputs))
    loss = loss_function(run)(outputs, run.placement.put_targets(targets))
    if run.distill is not None:
        weight = run.config.distill_weight
        assert run.teacher is not None
        loss = (1.0 - weight) * loss + weight * run.distill(outputs, run.teacher.answer(inputs))
    if run.penalty is not None:
        loss = loss + run.penalty(moment)
    loss.backward()  # type: ignore[no-untyped-call]
    if run.config.grad_clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.config.grad_clip)
    run.optimizer.step()
    return float(loss.detach())


def loss_function(run: Run) -> Callable[[Any, Any], Tensor]:
    """The task's loss, from outputs and targets to one number."""
    return lambda outputs, targets: task_loss(
        outputs, targets, task=run.task, label_smoothing=run.config.label_smoothing
    )


@contextmanager
def own_randomness(run: Run, *, epoch: int) -> Iterator[None]:
    """Dropout and a user's own loader draw from (seed, epoch); the global generators are afterwards as before."""
    devices = [run.placement.device] if run.placement.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        seed = int(np.random.SeedSequence((run.config.seed, epoch, 1)).generate_state(1)[0])
        torch.manual_seed(seed)
        yield


def num_images(run: Run, epochs: int) -> int:
    """Training inputs in so many epochs, the unit of progress."""
    return epochs * run.train.source.num_samples


def tell(run: Run, epoch: int, done: int, point: dict[str, float]) -> None:
    """Report ``done`` training inputs and what is known so far."""
    run.last_update = time.perf_counter()
    facts = {"epoch": f"{epoch}/{run.config.epochs}", "loss": f"{point['train_loss']:.3f}"}
    if "quality" in point:
        facts[run.task.quality_name] = f"{point['quality']:.2f}"
    run.progress.update(run.stage, done, facts)


def _diverged(loss: float, epoch: int, learning_rate: float) -> TrainingError:
    return TrainingError(
        f"The loss became {loss} in epoch {epoch} at learning rate {learning_rate:.4g}. Lower learning_rate "
        "(finetune_learning_rate where a recipe fine-tunes; noise_learning_rate or beta where it learns noise), set "
        "grad_clip=1.0 or warmup_epochs=1, and check the inputs for values that are not numbers."
    )
