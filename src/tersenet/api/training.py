"""Base networks: train on the train split, choose the epoch on the search split, test once at the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tersenet.api.folders import make_folder
from tersenet.core.metrics import Metrics
from tersenet.core.progress import Progress, Silent
from tersenet.core.summary import EpochPoint
from tersenet.core.version import __version__
from tersenet.data import Data
from tersenet.measurement import Task, measure_quality
from tersenet.models import SPLIT_KEY, save_weights
from tersenet.train import TrainConfig, fit

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a base network is trained."""

    learning_rate: float = 0.1
    """Peak of the cosine schedule."""

    batch_size: int = 128
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0

    warmup_epochs: float = 1.0
    """Epochs of linear warm-up; at most half of all epochs."""

    device: str = "cpu"
    task: Task = field(default_factory=Task)
    progress: Progress = field(default_factory=Silent)
    model_name: str = "model"


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained base network; the given model holds its weights."""

    weights: Path
    epochs: tuple[EpochPoint, ...]

    metrics: Metrics
    """On the test split."""

    seconds: float


def train(
    model: nn.Module, *, data: Data, seed: int, epochs: int, out: str | Path, options: TrainOptions | None = None
) -> TrainResult:
    """Train a network in place and write its weights; an interrupted training goes on with the same call.

    Args:
        out: folder for the weights and the checkpoint.
    """
    options = options or TrainOptions()
    folder = make_folder(out)
    config = TrainConfig(
        epochs=epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_epochs=min(options.warmup_epochs, epochs / 2),
        label_smoothing=options.label_smoothing,
        device=options.device,
        seed=seed,
    )
    fitted = fit(
        model,
        data.train,
        data.search,
        config,
        task=options.task,
        checkpoint=folder / "checkpoint.pt",
        progress=options.progress,
        stage="train",
    )
    metrics = measure_quality(model, data.test.source, options.task, split="test", device=options.device)
    path = folder / WEIGHTS_FILE
    facts = {
        SPLIT_KEY: "train",
        "tersenet": __version__,
        "model": options.model_name,
        "data": data.name,
        "data_sha256": data.content_hash,
        "epochs": str(epochs),
        "seed": str(seed),
        f"test {options.task.quality_name}": f"{metrics.quality:.4f}",
    }
    save_weights(model, path, metadata=facts)
    return TrainResult(weights=path, epochs=fitted.epochs, metrics=metrics, seconds=fitted.seconds)
