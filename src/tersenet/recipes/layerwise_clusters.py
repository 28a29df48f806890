"""Layerwise over storage: every layer's number of clusters in one plan, around what rate-distortion theory chooses.

The agent is that of ``layerwise``. What it decides is not how many bits a layer gets but how much more, or less, the
layer matters than its gradients say: equal shares are the Lagrangian allocation, which is the first trial, and the
trials after it learn where real accuracy disagrees.

Source: our own; the allocation from Shoham and Gersho 1988, see ``envs/rate_distortion.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from tersenet.envs import StorageSpace, scaled_by_loss
from tersenet.recipes.layerwise import LayerwiseConfig, search_of_plans
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, StorageConfig, register, storage_reward
from tersenet.search import Method


class LayerwiseClustersConfig(StorageConfig, LayerwiseConfig, frozen=True, extra="forbid"):
    """The agent's choices beside those of every search over storage."""

    scale: Literal["loss", "bits"] = "loss"
    """What equal shares mean: layers that lose as much by a byte less, or layers of as many bits."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """Actors and critics of whole plans."""
    assert isinstance(config, LayerwiseClustersConfig)
    if config.scale == "loss":
        assert isinstance(problem.space, StorageSpace)
        assert problem.distortions is not None
        space = scaled_by_loss(problem.space, problem.budget, problem.distortions())
        problem = replace(problem, space=space)
    return search_of_plans("layerwise_clusters", problem, config, reward=storage_reward)


layerwise_clusters = register(
    Recipe(
        name="layerwise_clusters",
        summary="An actor-critic decides all layers' numbers of clusters in one plan, around the Lagrangian one.",
        paper="ours",
        config_type=LayerwiseClustersConfig,
        build=build,
        decides=("clusters",),
    )
)
