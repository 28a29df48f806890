"""Methods by name; each file is one."""

from tersenet.recipes import cem, cmaes, greedy, he2018, layerwise, random, tpe, uniform
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    as_control,
    controls,
    make_env,
    make_space,
    register,
    registry,
)

get = registry.get
names = registry.names

__all__ = [
    "ChannelConfig",
    "Problem",
    "Recipe",
    "as_control",
    "cem",
    "cmaes",
    "controls",
    "get",
    "greedy",
    "he2018",
    "layerwise",
    "make_env",
    "make_space",
    "names",
    "random",
    "register",
    "tpe",
    "uniform",
]
