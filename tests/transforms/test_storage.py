"""From forms of storage to coded weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.core.policy import Clusters, Linear, Raw, Storage
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import ModelGraph, trace
from tersenet.transforms import Coder, LinearWeights, SharedWeights, quantize, share_weights


class Mixed(nn.Module):
    """A convolution, a transposed one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.up, self.head = nn.ConvTranspose2d(4, 6, 2), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.first(x)))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


@pytest.fixture
def model() -> Mixed:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Mixed().eval()


@pytest.fixture
def graph(model: Mixed) -> ModelGraph:
    return trace(model, torch.randn(2, 4, 5, 5))


def test_every_layer_is_coded_as_its_form_says(model: Mixed, graph: ModelGraph) -> None:
    forms: dict[str, Storage] = {"up": Linear(weight_bits=3), "head": Clusters(n_clusters=5), "first": Raw()}
    coded = Coder().code(model, graph, forms)
    assert set(coded) == {"up.weight", "head.weight"}
    up, head = coded["up.weight"], coded["head.weight"]
    assert isinstance(up, LinearWeights)
    assert isinstance(head, SharedWeights)
    assert up.axis == 1
    assert len(up.scales) == 6
    np.testing.assert_array_equal(up.values(), quantize(model.up.weight, 3, axis=1).values())
    np.testing.assert_array_equal(head.values(), share_weights(model.head.weight, Clusters(n_clusters=5)).values())


def test_the_same_weight_is_coded_once(model: Mixed, graph: ModelGraph) -> None:
    coder = Coder()
    forms: dict[str, Storage] = {"up": Linear(weight_bits=3), "first": Clusters(n_clusters=4)}
    first, again = coder.code(model, graph, forms), coder.code(model, graph, forms)
    assert set(first) == {"up.weight", "first.weight"}
    assert first["up.weight"] is again["up.weight"]
    with torch.no_grad():
        model.up.weight.mul_(2.0)
    assert coder.code(model, graph, forms)["up.weight"] is not first["up.weight"]


def test_forms_that_do_not_fit_are_refused_with_the_layers_name(model: Mixed, graph: ModelGraph) -> None:
    with pytest.raises(PolicyError, match=r"'heat'.*Did you mean 'head'"):
        Coder().code(model, graph, {"heat": Linear(weight_bits=3)})
    with torch.no_grad():
        model.up.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match="Layer 'up'"):
        Coder().code(model, graph, {"up": Linear(weight_bits=3)})
    with pytest.raises(ModelError, match="Layer 'up'"):
        Coder().code(model, graph, {"up": Clusters(n_clusters=3)})
