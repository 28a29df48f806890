"""Methods by name; each file is one."""

from tersenet.recipes import (
    cem,
    cmaes,
    greedy,
    haq2019,
    he2018,
    layerwise,
    random,
    rate_distortion,
    tpe,
    uniform,
    wang2020,
    zhan2019,
)
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    StorageConfig,
    as_control,
    controls,
    make_decisions,
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
    "StorageConfig",
    "as_control",
    "cem",
    "cmaes",
    "controls",
    "get",
    "greedy",
    "haq2019",
    "he2018",
    "layerwise",
    "make_decisions",
    "make_env",
    "make_space",
    "names",
    "random",
    "rate_distortion",
    "register",
    "tpe",
    "uniform",
    "wang2020",
    "zhan2019",
]
