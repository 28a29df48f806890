"""The test oracle: a network of the original size in which everything that a plan cuts is zero.

Zeroed are the weights that are pruned inside kernels, and all slices that would be cut: filters and biases, scale and
shift of norms, and the consumers' input slices. Running means become zero and running variances one, so that nothing is
divided by zero; other buffers keep their values, which reach nobody.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tersenet.core.plan import Plan
from tersenet.errors import PolicyError
from tersenet.graph import ModelGraph, duplicate, unwrapped
from tersenet.transforms.channels import masked
from tersenet.transforms.tensors import tensors_by_name


def simulate(model: nn.Module, graph: ModelGraph, plan: Plan) -> nn.Module:
    """A copy of ``model`` with what ``plan`` masks, and the slices that it would cut, set to zero.

    Raises:
        PolicyError: the plan was made for another model.
        ModelError: the model cannot be copied.
    """
    copied = duplicate(unwrapped(model))
    tensors = tensors_by_name(copied)
    infos = {tensor.name: tensor for tensor in graph.tensors}
    with torch.no_grad():
        for name, mask in plan.masks.items():
            tensors[name].copy_(masked(tensors, name, mask))
        for cut in plan.cuts:
            if cut.tensor not in tensors or cut.tensor not in infos:
                raise PolicyError(f"The plan cuts {cut.tensor!r}, which this model does not have.")
            tensor, info = tensors[cut.tensor], infos[cut.tensor]
            keep = np.asarray(plan.keeps[cut.keep])
            removed = np.setdiff1d(np.arange(tensor.shape[cut.axis]), keep)
            if not info.is_parameter and not info.is_statistic:
                continue
            value = 1.0 if cut.tensor.endswith("running_var") else 0.0
            tensor.index_fill_(cut.axis, torch.from_numpy(removed).to(tensor.device), value)
    return copied
