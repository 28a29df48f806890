"""How redundant each channel of a coupled group is: one score per channel, one file per criterion.

A new criterion is a file with a function under ``@register``, and its name in the import below.
"""

from tersenet.criteria import bn_scale, geometric_median, l1, l2, random
from tersenet.criteria.base import Criterion, MemberView, combine, get, names, own, register, register_group
from tersenet.criteria.user import use, use_again

__all__ = [
    "Criterion",
    "MemberView",
    "bn_scale",
    "combine",
    "geometric_median",
    "get",
    "l1",
    "l2",
    "names",
    "own",
    "random",
    "register",
    "register_group",
    "use",
    "use_again",
]
