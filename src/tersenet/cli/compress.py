"""``tersenet compress``: look, search, fine-tune, deliver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tersenet.cli import options as given
from tersenet.cli.guard import NOT_REACHED, complain
from tersenet.errors import MissingExtraError, TargetError

if TYPE_CHECKING:
    from tersenet.api import CompressOptions
    from tersenet.cli.inputs import Opened
    from tersenet.core.progress import Progress
    from tersenet.core.summary import Inspection
    from tersenet.core.target import Target
    from tersenet.recipes import Recipe

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show layers, reachable range and predicted time, then stop.")]


def compress(
    context: typer.Context,
    model: given.ModelSpec,
    data: given.DataSpec = "digits",
    weights: given.Weights = None,
    train_epochs: given.TrainEpochs = None,
    max_macs_ratio: given.MaxMacsRatio = None,
    max_params_ratio: given.MaxParamsRatio = None,
    max_size_ratio: given.MaxSizeRatio = None,
    max_macs: given.MaxMacs = None,
    max_params: given.MaxParams = None,
    max_size_bytes: given.MaxSizeBytes = None,
    max_latency_ratio: given.MaxLatencyRatio = None,
    max_latency_ms: given.MaxLatencyMs = None,
    max_top1_drop: given.MaxTop1Drop = None,
    minimize: given.Minimize = None,
    recipe: given.RecipeName = "he2018",
    trials: given.Trials = None,
    finetune_epochs: given.FinetuneEpochs = None,
    controls: given.Controls = "uniform",
    deliver: given.Deliver = None,
    workers: given.Workers = 1,
    agent: given.AgentFile = None,
    setting: given.Settings = None,
    rules: given.Rules = None,
    metric: given.Metric = None,
    loss: given.Loss = None,
    reference_top1: given.ReferenceTop1 = None,
    unseen_search_split: given.UnseenSearchSplit = False,
    seed: given.Seed = 0,
    device: given.Device = "cpu",
    out: given.Out = None,
    export: given.Export = "",
    dry_run: DryRun = False,
    as_json: given.AsJson = False,
) -> None:
    """Search how far each layer can be cut within the target, cut and fine-tune the network, and write the files."""
    from tersenet import api
    from tersenet.cli import inputs, output
    from tersenet.cli.progress import open_progress
    from tersenet.core.target import make_target
    from tersenet.evaluators import check_workers

    bounds = given.target_bounds(context)
    target = make_target(**bounds)
    settings = given.parse_settings(setting)
    rivals = _check_method(recipe, settings, controls)
    api.check_deliver(deliver, recipe, rivals)
    formats = given.parse_export(export)
    allowed = inputs.read_rules(rules) if rules is not None else None
    check_workers(workers, device)
    if weights is not None and train_epochs is not None:
        raise typer.BadParameter("give either --weights or --train-epochs, not both.", param_hint="--train-epochs")
    opened = inputs.open_all(model, data, weights=weights, metric=metric, loss=loss, seed=seed, device=device)
    folder = out or default_folder(opened.network.name, recipe, bounds, seed)
    if not dry_run:
        api.check_folder(folder)
    with open_progress() as progress:
        if train_epochs is not None and not dry_run:
            first = api.CompressOptions(recipe_options=settings, rules=allowed, device=device, agent=agent)
            _look_first(opened, target, recipe, first)
            opened = _train_first(opened, folder / "base", train_epochs, seed=seed, device=device, progress=progress)
        elif train_epochs is None and not dry_run:
            inputs.require_weights(opened.network)
        run_options = api.CompressOptions(
            trials=trials,
            finetune_epochs=finetune_epochs,
            recipe_options=settings,
            rules=allowed,
            controls=rivals,
            deliver=deliver,
            task=opened.task,
            device=device,
            workers=workers,
            agent=agent,
            out=folder,
            export=formats,
            reference_top1=reference_top1,
            weights_saw_search=inputs.saw_search(opened.network, unseen_search_split),
            model_name=opened.network.name,
            weights=opened.network.weights,
            progress=progress,
            command=given.command_line(context),
        )
        module = opened.network.module
        if dry_run or not as_json:
            seen = api.inspect(module, data=opened.data, target=target, recipe=recipe, options=run_options)
            (output.print_json if as_json else output.print_inspection)(seen)
            if dry_run:
                return _refuse_unreachable(seen)
        result = api.compress(module, data=opened.data, target=target, recipe=recipe, seed=seed, options=run_options)
        sizes = result.save(folder)
    output.print_result(result.run, str(folder), sizes, as_json=as_json)
    if not result.target_reached:
        complain("the target was not reached; the caveats say which bound was missed.")
        raise typer.Exit(NOT_REACHED)
    return None


def default_folder(model: str, recipe: str, bounds: dict[str, float | int | str], seed: int) -> Path:
    """A folder that depends on what was asked for, so that the same command finds its run again."""
    parts = [
        f"{name.removeprefix('max_').replace('_', '-')}-{value:g}" if not isinstance(value, str) else value
        for name, value in bounds.items()
    ]
    return Path("runs") / "_".join([model.replace(".", "-"), recipe, *parts, f"seed-{seed}"])


def _check_method(recipe: str, settings: dict[str, object], controls: str) -> tuple[str, ...]:
    """Refuse unknown names, settings and missing libraries before anything is trained; returns the controls."""
    from tersenet import criteria, recipes

    criteria.use(recipes.get(recipe).configure(settings).criterion)
    rivals = given.parse_controls(controls, known=recipes.controls(recipes.get(recipe).decides[0]), recipe=recipe)
    if controls.strip() == "all":
        rivals = tuple(rival for rival in rivals if _can_run(recipes.get(rival)))
    for name in (recipe, *rivals):
        recipes.get(name).check_installed()
    return rivals


def _can_run(rival: Recipe) -> bool:
    """Whether a control that was not asked for by name can run; a note says why not."""
    try:
        rival.check_installed()
    except MissingExtraError as error:
        typer.echo(f"note: the control {rival.name} is skipped. {error}", err=True)
        return False
    return True


def _look_first(opened: Opened, target: Target, recipe: str, options: CompressOptions) -> None:
    """Refuse what does not depend on the weights: a network that cannot be traced or cut, an unreachable target."""
    from tersenet.api.prepare import prepare

    prepare(opened.network.module, opened.data.example_inputs(), target=target, recipe=recipe, options=options)


def _train_first(opened: Opened, folder: Path, epochs: int, *, seed: int, device: str, progress: Progress) -> Opened:
    """Train the base network in the run's folder; a base that was trained there before is only loaded."""
    from tersenet import api, models

    network = opened.network
    options = api.TrainOptions(device=device, task=opened.task, progress=progress, model_name=network.name)
    trained = api.train(network.module, data=opened.data, seed=seed, epochs=epochs, out=folder, options=options)
    info = models.load_weights(network.module, trained.weights)
    return replace(opened, network=replace(network, weights=info, is_trained=True))


def _refuse_unreachable(seen: Inspection) -> None:
    missed = [row for row in seen.reachable if not row.is_reachable]
    if missed:
        from tersenet.cli.output import reachable_line

        raise TargetError(f"{'; '.join(reachable_line(row) for row in missed)}. Raise the bound.")
