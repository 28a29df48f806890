"""HAQ: DDPG walks the layers and decides the bits of each one's weights; one reward at the end of the walk.

Source: Wang et al. 2019 (HAQ), arXiv:1811.08886; constants as in the released code (mit-han-lab/haq), see
``recipes/wang2020.py``.
Differs: the budget is on the bytes of the real file, entropy coding included; only weights are decided; no epoch of
training inside a trial, batch-norm statistics are recalibrated instead; step sizes are learned in fine-tuning (LSQ);
the schedule of exploration is another, see there.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tersenet.envs import DecoderName
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, StorageConfig, register
from tersenet.recipes.wang2020 import haq_search
from tersenet.search import Method


class HAQ2019Config(StorageConfig, frozen=True, extra="forbid"):
    """The paper's choices beside those of every search over storage."""

    most: Annotated[int, Field(ge=2, le=8)] = 8
    """Largest number of bits of a layer."""

    decoder: DecoderName = "sweep"
    """How the budget is held: the paper's sweep from the last layer to the first, AMC's ``wall``, or one ``level``."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """DDPG over HAQ's state features."""
    assert isinstance(config, HAQ2019Config)
    return haq_search("haq2019", problem, config, decoder=config.decoder)


haq2019 = register(
    Recipe(
        name="haq2019",
        summary="HAQ: DDPG decides the bits of every layer's weights.",
        paper="Wang et al. 2019, arXiv:1811.08886",
        config_type=HAQ2019Config,
        build=build,
        decides=("weight_bits",),
    )
)
