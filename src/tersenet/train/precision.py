"""Which number format and memory layout a network is trained in.

A rule and not a race: the formats round differently, so a choice by timing would let a busy moment of the machine
decide what a run ends with. bfloat16 is taken where the processor computes in it; channels_last everywhere but for
bfloat16 on a CPU with AMX, which is faster contiguous; whatever the network fails in is skipped.

Measured with batches of 128. Two cores with AMX, ResNet-20 at half its MACs: bfloat16 2,200 images/s contiguous and
1,700 channels_last, fp32 1,100 and 1,200. Cores with AVX-512 bfloat16 but no AMX, ResNet-20 uncut: one core 390 and 490
in bfloat16, 210 and 320 in fp32; two cores 710 and 760, 370 and 470. On one such core channels_last shortened a step of
MobileNetV2 by 24 % in bfloat16 and by 32 % in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tersenet.data.splits import Inputs
from tersenet.errors import ModelError
from tersenet.graph import duplicate
from tersenet.measurement.placement import Batch, Placement, has_fast_bf16, has_tiles
from tersenet.train.config import Switch, TrainConfig
from tersenet.train.memory import enough_memory, ran_out_of_memory


def choose_placement(
    model: nn.Module, batch: Batch, loss: Callable[[Any, Any], Tensor], config: TrainConfig, placement: Placement
) -> Placement:
    """Settle ``auto``: the preferred way in which a step on a copy of the model works.

    Args:
        model: on the device, in train mode; not changed.
        batch: one batch, as the source yields it.
        loss: from outputs and targets to one number.
        config: ``autocast`` and ``channels_last`` say what may be chosen.
        placement: device and format of the model's own parameters.

    Returns:
        The placement to train with.

    Raises:
        ModelError: the model fails on the batch in every allowed way.
        TrainingError: memory runs out.
    """
    can_cast = placement.dtype == torch.float32
    has_images = _has_images(batch[0])
    candidates = [
        replace(placement, autocast=autocast, channels_last=channels_last)
        for autocast in _options(config.autocast if can_cast else "off", prefer=has_fast_bf16(placement.device))
        for channels_last in _options(
            config.channels_last if has_images else "off", prefer=not (autocast and has_tiles(placement.device))
        )
    ]
    if len(candidates) == 1:
        return candidates[0]
    with enough_memory(batch[0]):
        return _first_that_works(model, batch, loss, candidates)


def _options(switch: Switch, *, prefer: bool) -> list[bool]:
    if switch != "auto":
        return [switch == "on"]
    return [prefer, not prefer]


def _has_images(inputs: Inputs) -> bool:
    return any(tensor.ndim == 4 for tensor in (inputs if isinstance(inputs, tuple) else (inputs,)))


def _first_that_works(
    model: nn.Module, batch: Batch, loss: Callable[[Any, Any], Tensor], candidates: list[Placement]
) -> Placement:
    failure: ModelError | RuntimeError | None = None
    for candidate in candidates:
        try:
            outputs = candidate.forward(duplicate(model), candidate.put(batch[0]))
            loss(outputs, candidate.put_targets(batch[1])).backward()  # type: ignore[no-untyped-call]
        except (ModelError, RuntimeError) as error:  # what views activations fails in channels_last only
            if ran_out_of_memory(error):  # that another way needs less of it would be luck
                raise
            failure = failure or error
            continue
        return candidate
    assert failure is not None
    raise failure
