"""Training: fine-tuning with distillation, exact resume, and batch-norm statistics measured anew."""

from tersenet.train.codebook import Assignments, attach_codebooks, detach_codebooks
from tersenet.train.coded import attach_coded, detach_coded
from tersenet.train.config import TrainConfig
from tersenet.train.live import LiveSession
from tersenet.train.loop import FitResult, fit
from tersenet.train.lsq import attach_steps, detach_steps
from tersenet.train.recalibrate import recalibrate
from tersenet.train.variational import attach_noise, detach_noise, measure_noise, noise_nats
from tersenet.train.variational_fit import learn_noise
from tersenet.train.zeros import held_zeros, kept_zeros

__all__ = [
    "Assignments",
    "FitResult",
    "LiveSession",
    "TrainConfig",
    "attach_codebooks",
    "attach_coded",
    "attach_noise",
    "attach_steps",
    "detach_codebooks",
    "detach_coded",
    "detach_noise",
    "detach_steps",
    "fit",
    "held_zeros",
    "kept_zeros",
    "learn_noise",
    "measure_noise",
    "noise_nats",
    "recalibrate",
]
