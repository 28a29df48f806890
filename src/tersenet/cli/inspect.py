"""``tersenet inspect``: layers, groups and what could be reached, without spending anything."""

from __future__ import annotations

from typing import Annotated

import typer

from tersenet.cli import options as given
from tersenet.errors import DataError

InputShape = Annotated[
    list[str] | None,
    typer.Option(metavar="C,H,W", help="Shape of one input, without the batch axis; repeat for several inputs."),
]


def inspect(
    context: typer.Context,
    model: given.ModelSpec,
    data: given.OptionalDataSpec = None,
    input_shape: InputShape = None,
    weights: given.Weights = None,
    max_macs_ratio: given.MaxMacsRatio = None,
    max_params_ratio: given.MaxParamsRatio = None,
    max_size_ratio: given.MaxSizeRatio = None,
    max_macs: given.MaxMacs = None,
    max_params: given.MaxParams = None,
    max_size_bytes: given.MaxSizeBytes = None,
    recipe: given.RecipeName = "he2018",
    setting: given.Settings = None,
    rules: given.Rules = None,
    device: given.Device = "cpu",
    as_json: given.AsJson = False,
) -> None:
    """Show layers, costs, which channels go together, what is locked and why, and what a target could reach."""
    from tersenet import api
    from tersenet.cli import inputs, output
    from tersenet.core.target import make_target

    if (data is None) == (input_shape is None):
        raise DataError("inspect needs inputs to run the network on: give either --data SPEC or --input-shape C,H,W.")
    bounds = given.target_bounds(context)
    target = make_target(**bounds) if bounds else None
    inputs.check_device(device)
    opened = inputs.open_data(data) if data is not None else None
    num_classes = opened.num_classes if opened is not None else None
    network = inputs.open_network(model, weights=weights, num_classes=num_classes, seed=0)
    options = api.CompressOptions(
        recipe_options=given.parse_settings(setting),
        rules=inputs.read_rules(rules) if rules is not None else None,
        device=device,
        model_name=network.name,
        weights=network.weights,
    )
    seen = api.inspect(
        network.module,
        data=opened,
        example_inputs=inputs.example_inputs(input_shape, seed=0) if input_shape is not None else None,
        target=target,
        recipe=recipe,
        options=options,
    )
    (output.print_json if as_json else output.print_inspection)(seen)
