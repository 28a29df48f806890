"""Training: fine-tuning with distillation, exact resume, and batch-norm statistics measured anew."""

from tersenet.train.config import TrainConfig
from tersenet.train.loop import FitResult, fit
from tersenet.train.recalibrate import recalibrate

__all__ = ["FitResult", "TrainConfig", "fit", "recalibrate"]
