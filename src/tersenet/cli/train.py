"""``tersenet train``: a base network to compress, trained without the search split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli import options as given

Epochs = Annotated[int, typer.Option(min=1, help="Passes over the train split.")]
LearningRate = Annotated[float | None, typer.Option(min=0.0, help="Peak of the cosine schedule.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples per step.")]
WeightDecay = Annotated[float | None, typer.Option(min=0.0, help="L2 penalty.")]
LabelSmoothing = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Share of the label that is spread.")]


def train(
    model: given.ModelSpec,
    epochs: Epochs,
    data: given.DataSpec = "digits",
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    metric: given.Metric = None,
    loss: given.Loss = None,
    seed: given.Seed = 0,
    device: given.Device = "cpu",
    out: given.Out = None,
    as_json: given.AsJson = False,
) -> None:
    """Train a network on the train split; its weights have not seen the search split."""
    import json
    import shlex
    from dataclasses import replace

    from tersenet import api
    from tersenet.cli import inputs, output
    from tersenet.cli.progress import open_progress

    opened = inputs.open_all(model, data, weights=None, metric=metric, loss=loss, seed=seed, device=device)
    folder = out or Path("runs") / f"{opened.network.name}_train-{epochs}_seed-{seed}"
    chosen = {
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "label_smoothing": label_smoothing,
    }
    with open_progress() as progress:
        options = api.TrainOptions(device=device, task=opened.task, progress=progress, model_name=opened.network.name)
        options = replace(options, **{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
        result = api.train(
            opened.network.module, data=opened.data, seed=seed, epochs=epochs, out=folder, options=options
        )
    if as_json:
        facts = {
            "weights": str(result.weights),
            "seconds": result.seconds,
            "metrics": result.metrics.model_dump(mode="json"),
            "epochs": [point.model_dump(mode="json") for point in result.epochs],
        }
        typer.echo(json.dumps(facts, indent=1))
        return
    output.print_metrics({opened.network.name: result.metrics}, title=f"{opened.network.name}, {epochs} epochs:")
    words = ["tersenet", "compress", model, "--weights", str(result.weights), "--data", data, "--max-macs-ratio", "0.5"]
    typer.echo(f"Weights: {result.weights}\nCompress it with, for example:\n  {shlex.join(words)}")
