"""Fine-tuning of coded weights: shared values and step sizes become parameters, and are taken off again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from tersenet.train.codebook import Assignments, attach_codebooks, detach_codebooks
from tersenet.train.lsq import attach_steps, detach_steps
from tersenet.transforms import CodedWeights, LinearWeights, SharedWeights


def attach_coded(model: nn.Module, coded: Mapping[str, CodedWeights], *, assignments: Assignments) -> None:
    """Let layers compute with what will be stored, in place: codebooks are trained (Deep Compression), linear weights
    with learned steps (LSQ). ``fit`` trains both.

    Args:
        model: holds the weights that ``coded`` was made from, so that integers keep what their rounding lost.
        coded: by name of the weight, as in ``state_dict()``.
        assignments: of shared weights to their values.

    Raises:
        PolicyError: the model has no such weight, or it has another shape.
    """
    shared = {name: one for name, one in coded.items() if isinstance(one, SharedWeights)}
    attach_codebooks(model, shared, assignments=assignments)
    attach_steps(model, {name: one for name, one in coded.items() if isinstance(one, LinearWeights)})


def detach_coded(model: nn.Module) -> dict[str, CodedWeights]:
    """Take off what ``attach_coded`` attached, in place: plain parameters that hold exactly the values returned."""
    return {**detach_codebooks(model), **detach_steps(model)}
