"""Methods by name; each file is one."""

from tersenet.recipes import (
    cem,
    cmaes,
    gnnrl2022,
    greedy,
    haq2019,
    he2018,
    khatri2020,
    layerwise,
    random,
    rate_distortion,
    tpe,
    uniform,
    wang2020,
    yu2021,
)
from tersenet.recipes.recipe import (
    ChannelConfig,
    Live,
    Problem,
    Recipe,
    StorageConfig,
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
    "Live",
    "Problem",
    "Recipe",
    "StorageConfig",
    "as_control",
    "cem",
    "cmaes",
    "controls",
    "get",
    "gnnrl2022",
    "greedy",
    "haq2019",
    "he2018",
    "khatri2020",
    "layerwise",
    "make_env",
    "make_space",
    "names",
    "random",
    "rate_distortion",
    "register",
    "tpe",
    "uniform",
    "wang2020",
    "yu2021",
]
