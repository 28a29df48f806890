"""Options that several commands share, each defined once.

A command lists the ones it takes; their names become the names on the command line. Bounds of the target are read
from the parsed command as a whole (:func:`target_bounds`), so that a new bound is one line here and one per command.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

_TARGET = "Target (upper bounds on the compressed network)"
_METHOD = "Method"
_MEASURE = "What is measured"

ModelSpec = Annotated[
    str, typer.Argument(metavar="MODEL", help="Built-in name, path/to/file.py:factory or package.module:factory.")
]
DataSpec = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SPEC",
        help="digits, mnist:PATH, cifar10:PATH, folder:PATH or file.py:factory; "
        "mnist and cifar10 alone are looked for in the folder that TERSENET_DATA names.",
    ),
]
OptionalDataSpec = Annotated[
    str | None, typer.Option("--data", metavar="SPEC", help="Data set as for compress; makes predicted times possible.")
]
Weights = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights: .safetensors, or a state dict saved by torch.save.")
]
TrainEpochs = Annotated[
    int | None,
    typer.Option(min=1, help="Train the network this long first, for networks without weights (see tersenet train)."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run; the same folder continues it.")]
Seed = Annotated[int, typer.Option(help="Fixes every random choice.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:NAME", rich_help_panel=_MEASURE, help="metric(model, batches) -> float, higher is better."
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:NAME", rich_help_panel=_MEASURE, help="loss(outputs, targets) -> tensor, for training."
    ),
]
ReferenceTop1 = Annotated[
    float | None,
    typer.Option(
        metavar="X", rich_help_panel=_MEASURE, help="Quality to hold --max-top1-drop against; see the caveats."
    ),
]
UnseenSearchSplit = Annotated[
    bool,
    typer.Option(
        "--unseen-search-split", rich_help_panel=_MEASURE, help="The weights were not trained on the search split."
    ),
]

RecipeName = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=_METHOD, help="Method, see `tersenet recipes`.")
]
Trials = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_METHOD, help="Policies to evaluate; default: the recipe's.")
]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        rich_help_panel=_METHOD,
        help="Trials measured at once, each by a process with its share of the cores; needs the extra ray.",
    ),
]
AgentFile = Annotated[
    Path | None,
    typer.Option(
        "--agent",
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="Begin with an agent that was trained on another network: the agent.safetensors of its run.",
    ),
]
FinetuneEpochs = Annotated[
    int | None,
    typer.Option(min=0, rich_help_panel=_METHOD, help="Epochs of fine-tuning; default: the recipe's."),
]
Controls = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        rich_help_panel=_METHOD,
        help="Recipes to compare with at the same budget; or all (controls), none.",
    ),
]
Deliver = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_METHOD,
        help="Whose best policy is tuned and delivered: the recipe (default) or one of the controls. The same command "
        "with another name goes on from its trials.",
    ),
]
Export = Annotated[
    str,
    typer.Option(
        metavar="FORMAT,...",
        help="Files to write beside the packed one and model.onnx: int8, an ONNX model for speed, calibrated on "
        "training images.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", rich_help_panel=_METHOD, help="A field of the recipe's configuration; repeatable."
    ),
]
TuningSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="How to tune and store, as in every recipe: finetune_learning_rate, assignments, distill_weight, ...; "
        "repeatable.",
    ),
]

Rules = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_METHOD,
        help="TOML or JSON: what may be done to all layers, to a type of them, to one by name or pattern.",
    ),
]
Criterion = Annotated[
    str | None,
    typer.Option(metavar="FILE.py:NAME", help="A criterion of your own that the policy names."),
]

MaxMacsRatio = Annotated[float | None, typer.Option(rich_help_panel=_TARGET, help="Share of the MACs left.")]
MaxParamsRatio = Annotated[float | None, typer.Option(rich_help_panel=_TARGET, help="Share of the parameters left.")]
MaxSizeRatio = Annotated[
    float | None, typer.Option(rich_help_panel=_TARGET, help="Bytes of the packed file over the original bytes.")
]
MaxMacs = Annotated[int | None, typer.Option(rich_help_panel=_TARGET, help="MACs at batch 1.")]
MaxParams = Annotated[int | None, typer.Option(rich_help_panel=_TARGET, help="Parameters.")]
MaxSizeBytes = Annotated[int | None, typer.Option(rich_help_panel=_TARGET, help="Bytes of the packed file.")]
MaxLatencyRatio = Annotated[float | None, typer.Option(rich_help_panel=_TARGET, help="Share of the latency left.")]
MaxLatencyMs = Annotated[float | None, typer.Option(rich_help_panel=_TARGET, help="Milliseconds at batch 1.")]
MaxTop1Drop = Annotated[
    float | None, typer.Option(rich_help_panel=_TARGET, help="Points of quality that may be lost after fine-tuning.")
]
Minimize = Annotated[
    str | None,
    typer.Option(rich_help_panel=_TARGET, help="macs, params or size_bytes: made small under --max-top1-drop."),
]

_BOUNDS = (
    "max_macs_ratio",
    "max_params_ratio",
    "max_size_ratio",
    "max_macs",
    "max_params",
    "max_size_bytes",
    "max_latency_ratio",
    "max_latency_ms",
    "max_top1_drop",
    "minimize",
)


def target_bounds(context: typer.Context) -> dict[str, float | int | str]:
    """The bounds that were given, by the name of their field in ``Target``."""
    return {name: context.params[name] for name in _BOUNDS if context.params.get(name) is not None}


def parse_settings(settings: list[str] | None) -> dict[str, object]:
    """``["criterion=l2", "trials=50"]`` to values: JSON where it is JSON, text otherwise.

    Raises:
        typer.BadParameter: an entry has no ``=`` or names nothing.
    """
    found: dict[str, object] = {}
    for entry in settings or []:
        key, equals, text = entry.partition("=")
        if not key or not equals:
            raise typer.BadParameter(f"{entry!r} is not KEY=VALUE, for example criterion=l2.", param_hint="--set")
        try:
            found[key.strip().replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            found[key.strip().replace("-", "_")] = text
    return found


def parse_controls(controls: str, *, known: list[str], recipe: str) -> tuple[str, ...]:
    """``"uniform,cem"``, ``"all"`` or ``"none"`` to names of recipes, in the order given.

    Args:
        controls: as given by the user.
        known: all controls.
        recipe: the one that is searched with, which is not its own control.
    """
    if controls.strip() in ("none", ""):
        return ()
    if controls.strip() == "all":
        return tuple(name for name in known if name != recipe)
    return tuple(dict.fromkeys(name.strip() for name in controls.split(",") if name.strip()))


def parse_export(formats: str) -> tuple[str, ...]:
    """``"int8"`` to names of formats.

    Raises:
        TersenetError: one is not known, or a library that it needs is not installed.
    """
    from tersenet import api

    names = tuple(dict.fromkeys(name.strip() for name in formats.split(",") if name.strip()))
    api.check_export(names)
    return names


def command_line(context: typer.Context) -> str:
    """The command as a line for a shell, with the options that were given: arguments first, defaults left out."""
    import shlex

    words: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        value = context.params.get(name)
        if value is None or source is None or source.name not in ("COMMANDLINE", "ENVIRONMENT"):
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, bool):
            options += [parameter.opts[0]] if value else []
        else:
            for entry in value if isinstance(value, list | tuple) else [value]:
                options += [parameter.opts[0], str(entry)]
    return shlex.join(["tersenet", context.info_name or "", *words, *options])
