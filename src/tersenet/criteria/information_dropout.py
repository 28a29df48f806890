"""How many nats a channel, a kernel or a position carries when noise is as strong as the network bears.

Training with information dropout (``train/variational.py``) raises the noise of every unit as far as the loss allows; a
unit whose noise rose to the largest rate carries nothing, and goes first.

Source: Achille and Soatto 2018 (information dropout), arXiv:1611.01353; used for pruning by Zhan et al. 2019,
arXiv:1912.02254. Differs: that paper's threshold is not public; units are ranked by their mean Kullback-Leibler
divergence over training inputs, or cut at a number of nats.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tersenet.criteria.base import MemberView, combine, register_group
from tersenet.criteria.units import UnitView, register_unit
from tersenet.errors import PolicyError

_WAY_OUT = "it is learned by the recipe zhan2019; use the criterion 'l1' without it"


@register_group("information_dropout")
def information_dropout(members: Sequence[MemberView], seed: int) -> Tensor:
    """Nats per channel, relative to the mean of each producer; producers that learned nothing have no say.

    Raises:
        PolicyError: nothing was learned for any producer of the group.
    """
    scores = [m.learned.float()[m.position_index()].sum(dim=1) for m in members if m.learned is not None]
    if not scores:
        raise PolicyError(f"criterion='information_dropout' has no noise rates for a group: {_WAY_OUT}.")
    return combine(scores)


@register_unit("information_dropout")
def unit_information(view: UnitView, seed: int) -> Tensor:
    """Nats per unit, shape of the units.

    Raises:
        PolicyError: nothing was learned for the layer.
    """
    if view.learned is None:
        raise PolicyError(f"criterion='information_dropout' has no noise rates for a layer: {_WAY_OUT}.")
    return view.learned.float()
