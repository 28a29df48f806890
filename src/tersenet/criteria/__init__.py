"""How redundant each channel of a coupled group is: one score per channel, one file per criterion.

A new criterion is a file with a function under ``@register``, and its name in the import below. Criteria for units
inside kernels are entered by ``register_unit``.
"""

from tersenet.criteria import bn_scale, geometric_median, information_dropout, l1, l2, random, variational_dropout
from tersenet.criteria.base import Criterion, MemberView, combine, get, names, own, register, register_group
from tersenet.criteria.learned import Learned
from tersenet.criteria.units import UnitCriterion, UnitView, get_unit, register_unit, unit_names
from tersenet.criteria.user import use, use_again

__all__ = [
    "Criterion",
    "Learned",
    "MemberView",
    "UnitCriterion",
    "UnitView",
    "bn_scale",
    "combine",
    "geometric_median",
    "get",
    "get_unit",
    "information_dropout",
    "l1",
    "l2",
    "names",
    "own",
    "random",
    "register",
    "register_group",
    "register_unit",
    "unit_names",
    "use",
    "use_again",
    "variational_dropout",
]
