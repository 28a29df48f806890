"""Training: fine-tuning with distillation, exact resume, and batch-norm statistics measured anew."""

from tersenet.train.codebook import attach_codebooks, detach_codebooks
from tersenet.train.coded import attach_coded, detach_coded
from tersenet.train.config import TrainConfig
from tersenet.train.live import LiveSession
from tersenet.train.loop import FitResult, fit
from tersenet.train.lsq import attach_steps, detach_steps
from tersenet.train.recalibrate import recalibrate

__all__ = [
    "FitResult",
    "LiveSession",
    "TrainConfig",
    "attach_codebooks",
    "attach_coded",
    "attach_steps",
    "detach_codebooks",
    "detach_coded",
    "detach_steps",
    "fit",
    "recalibrate",
]
