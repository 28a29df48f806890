"""How a network is trained: one frozen set of numbers, stored in the checkpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from tersenet.core.bounds import Count, Positive, Share

Switch = Literal["auto", "on", "off"]


class TrainConfig(BaseModel, frozen=True, extra="forbid"):
    """Stochastic gradient descent with warm-up and a cosine schedule."""

    seed: Annotated[int, Field(ge=0)]
    """Fixes the order of the data, augmentation and dropout."""

    epochs: Annotated[int, Field(ge=0)]
    """Passes over the training split; 0 only measures."""

    batch_size: Count = 128
    """Inputs per step (a user's own batches may be smaller)."""

    learning_rate: Positive = 0.1
    """Highest learning rate; 0.05 is usual for fine-tuning."""

    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9

    nesterov: bool = True
    """Nesterov's form of momentum; has no effect without momentum."""

    weight_decay: Annotated[float, Field(ge=0.0)] = 5e-4
    """Applied to weights, never to biases and norm layers."""

    warmup_epochs: Annotated[float, Field(ge=0.0)] = 0.0
    """Epochs in which the learning rate rises linearly from 0."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that is spread over all classes; unused with the user's own loss."""

    distill_weight: Share = 0.0
    """Share of the loss that compares with the original network; 0 = no distillation."""

    distill_temperature: Positive = 4.0
    """Both networks' logits are divided by it before they are compared."""

    autocast: Switch = "auto"
    """bfloat16 where that is safe; ``auto`` follows the processor, see ``train/precision.py``."""

    channels_last: Switch = "auto"
    """Layout of image inputs; ``auto`` follows processor and format, see ``train/precision.py``."""

    device: str = "cpu"
    """Where to train."""

    grad_clip: Positive | None = None
    """Highest norm of the whole gradient; None = not clipped."""

    @model_validator(mode="after")
    def _checked(self) -> TrainConfig:
        if self.epochs and self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} must be below epochs={self.epochs}; the rest is the cosine"
            )
        return self
