"""``tersenet apply``: build, fine-tune and write a policy that was written or edited by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tersenet.cli import options as given

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY.json", help="A policy, as a run writes it.")]


def apply(
    context: typer.Context,
    policy: PolicyFile,
    model: given.ModelSpec,
    data: given.DataSpec = "digits",
    weights: given.Weights = None,
    finetune_epochs: given.FinetuneEpochs = None,
    setting: given.TuningSettings = None,
    metric: given.Metric = None,
    loss: given.Loss = None,
    criterion: given.Criterion = None,
    unseen_search_split: given.UnseenSearchSplit = False,
    seed: given.Seed = 0,
    device: given.Device = "cpu",
    out: given.Out = None,
    export: given.Export = "",
    as_json: given.AsJson = False,
) -> None:
    """Cut a network by a given policy, fine-tune it and write the files; no search."""
    from tersenet import api, criteria
    from tersenet.cli import inputs, output
    from tersenet.cli.progress import open_progress

    decided = inputs.read_policy(policy)
    formats = given.parse_export(export)
    settings = given.parse_settings(setting)
    if criterion is not None:
        criteria.use(criterion)
    opened = inputs.open_all(model, data, weights=weights, metric=metric, loss=loss, seed=seed, device=device)
    inputs.require_weights(opened.network)
    folder = out or Path("runs") / f"{opened.network.name}_apply-{decided.digest()}_seed-{seed}"
    with open_progress() as progress:
        options = api.CompressOptions(
            finetune_epochs=finetune_epochs,
            recipe_options=settings,
            task=opened.task,
            device=device,
            out=folder,
            export=formats,
            weights_saw_search=inputs.saw_search(opened.network, unseen_search_split),
            model_name=opened.network.name,
            weights=opened.network.weights,
            progress=progress,
            command=given.command_line(context),
        )
        result = api.apply(opened.network.module, decided, data=opened.data, seed=seed, options=options)
        sizes = result.save(folder)
    output.print_result(result.run, str(folder), sizes, as_json=as_json)
