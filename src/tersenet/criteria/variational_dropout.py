"""How certain training with Gaussian noise is about each weight: minus the logarithm of its noise-to-signal ratio.

A weight with log alpha above 3 is dropped with a rate above 95 %; that is a threshold of -3 here.

Source: Molchanov et al. 2017 (sparse variational dropout), arXiv:1701.05369, section 4 (trained as in
``train/variational.py``).
"""

from __future__ import annotations

from torch import Tensor

from tersenet.criteria.units import UnitView, register_unit
from tersenet.errors import PolicyError

THRESHOLD = -3.0
"""The published threshold on the score."""


@register_unit("variational_dropout")
def variational_dropout(view: UnitView, seed: int) -> Tensor:
    """Minus log alpha per weight.

    Raises:
        PolicyError: nothing was learned for the layer, or units are larger than a weight.
    """
    if view.learned is None:
        raise PolicyError(
            "criterion='variational_dropout' has no noise for a layer: it is learned by the recipe zhan2019 with "
            "unit='element'; use the criterion 'l1' without it."
        )
    if view.unit_shape != tuple(view.weight.shape):
        raise PolicyError("criterion='variational_dropout' scores single weights: set unit to 'element'.")
    return view.learned.float()
