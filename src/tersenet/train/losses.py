"""What training descends: the task's loss, and the distance to the original network's outputs.

Source: Hinton et al. 2015, arXiv:1503.02531, section 2 (soft targets, gradients scaled by the squared temperature).
Differs: for a user's own loss the outputs themselves are compared, in units of their variance.
Axes: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tersenet.errors import DataError, ModelError, TersenetError, TrainingError
from tersenet.measurement.task import Loss, Task
from tersenet.train.config import TrainConfig

DistillLoss = Callable[[Tensor, Tensor], Tensor]


def soft_target_loss(logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from the teacher's softened classes, times the squared temperature.

    Args:
        logits: shape (N, K), or (N, K, ...) for one decision per position.
        teacher_logits: same shape.
        temperature: both are divided by it.

    Returns:
        Mean over samples and positions, shape ().
    """
    log_student = F.log_softmax(logits / temperature, dim=1)
    log_teacher = F.log_softmax(teacher_logits / temperature, dim=1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1)
    return temperature**2 * divergence.mean()


def output_loss(outputs: Tensor, teacher_outputs: Tensor) -> Tensor:
    """Mean squared difference over the variance of the teacher's outputs in this batch, shape ().

    Args:
        outputs: any shape.
        teacher_outputs: same shape.
    """
    spread = teacher_outputs.var(correction=0).clamp_min(torch.finfo(teacher_outputs.dtype).eps)
    return F.mse_loss(outputs, teacher_outputs) / spread


def task_loss(outputs: Any, targets: Any, *, task: Task, label_smoothing: float) -> Tensor:
    """The user's own loss, or cross-entropy with label smoothing, shape ().

    Raises:
        ModelError: cross-entropy, but the outputs are not one tensor of logits.
        DataError: cross-entropy, but the targets do not fit the outputs.
        TrainingError: the user's own loss fails, or gives something that cannot be descended.
    """
    if task.loss is not None:
        return _own_loss(task.loss, outputs, targets)
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        what = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ModelError(
            f"The model returns {what}, but cross-entropy needs logits of shape (samples, classes). "
            "Give your own loss: Task(loss=...)."
        )
    try:
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        described = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise DataError(
            f"Cross-entropy of outputs {tuple(outputs.shape)} with targets {described} failed: {error} Check the "
            "labels, or give your own loss: Task(loss=...)."
        ) from error


def _own_loss(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    name = getattr(loss, "__qualname__", None) or repr(loss)
    try:
        found: Any = loss(outputs, targets)
    except TersenetError:
        raise
    except Exception as error:
        raise TrainingError(
            f"The loss {name} failed with {type(error).__name__}: {error}. It is called with the outputs of the "
            "network and the targets of one batch."
        ) from error
    if not isinstance(found, Tensor) or found.numel() != 1:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise TrainingError(
            f"The loss {name} returned {what}. Let it return a tensor with one number, such as the mean over the batch."
        )
    return found.reshape(())


def distill_loss(outputs: Any, teacher_outputs: Any, *, task: Task, config: TrainConfig) -> DistillLoss | None:
    """Which comparison with the teacher fits these outputs; None where none does."""
    is_tensor = isinstance(outputs, Tensor) and isinstance(teacher_outputs, Tensor)
    if not is_tensor or outputs.shape != teacher_outputs.shape or not outputs.is_floating_point():
        return None
    if task.loss is not None:
        return output_loss
    if outputs.ndim < 2:
        return None
    return lambda ours, theirs: soft_target_loss(ours, theirs, temperature=config.distill_temperature)
