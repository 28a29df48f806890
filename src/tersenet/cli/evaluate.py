"""``tersenet evaluate``: measure delivered files again on the test split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli import options as given

Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="Folder of a run, or a packed file.")]


def evaluate(
    artifact: Artifact,
    model: given.ModelSpec,
    data: given.DataSpec = "digits",
    metric: given.Metric = None,
    device: given.Device = "cpu",
    as_json: given.AsJson = False,
) -> None:
    """Load the packed file into the network, and the ONNX file beside it, and measure both on the test split."""
    import json

    from tersenet import api
    from tersenet.cli import inputs, output

    opened = inputs.open_all(model, data, weights=None, metric=metric, loss=None, seed=0, device=device)
    found = api.evaluate(artifact, opened.network.module, data=opened.data, task=opened.task, device=device)
    columns = {"packed file": found.metrics.model_copy(update={"size_bytes": found.size_bytes})}
    if found.onnx is not None:
        columns["ONNX file"] = found.onnx
    if found.int8 is not None:
        columns["int8 file"] = found.int8
    if as_json:
        typer.echo(json.dumps({name: metrics.model_dump(mode="json") for name, metrics in columns.items()}, indent=1))
        return
    output.print_metrics(columns, title=f"{artifact} on {opened.data.name}:")
