"""Computed weights made plain: the same outputs, channels that can be cut, the given model untouched."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from tersenet.graph import prunable_ratio, trace
from tersenet.testing.invariant import assert_cut_equals_zeroed
from tersenet.testing.networks import randomize
from tersenet.transforms import plain_weights

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class ScaledStdConv(nn.Conv2d):
    """Weights standardised over each filter, as in networks without norms; called twice it computes twice."""

    gain: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)
        return F.conv2d(x, flat.view_as(self.weight) * self.gain, self.bias, self.stride, self.padding)


class PaddedStdConv(ScaledStdConv):
    """Pads by itself, so that a plain convolution would not compute the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 0, 1, 0)))


def chain(middle: nn.Module) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.ReLU(), nn.Flatten(2), nn.Conv1d(6, 5, 1))
    return randomize(model, seed=0).eval()


def standardised(kind: type[ScaledStdConv]) -> nn.Module:
    conv = kind(8, 6, 3)
    conv.gain = nn.Parameter(torch.ones(6, 1, 1, 1))
    return conv


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "standardised"])
def test_computed_weights_become_plain_and_can_be_cut(how: str) -> None:
    conv = nn.Conv2d(8, 6, 3)
    if how == "weight_norm":
        parametrizations.weight_norm(conv)
    elif how == "spectral_norm":
        parametrizations.spectral_norm(conv)
    model = chain(standardised(ScaledStdConv) if how == "standardised" else conv)
    before = copy.deepcopy(model)
    plain = plain_weights(model, IMAGES)
    torch.testing.assert_close(plain(IMAGES), before(IMAGES))
    assert type(plain.get_submodule("2")) is nn.Conv2d
    assert not list(plain.get_submodule("2").named_buffers())
    assert prunable_ratio(trace(plain, IMAGES), "macs") == 1.0
    assert_cut_equals_zeroed(plain, IMAGES, seed=0)
    # the given model is what it was
    assert "plain_weights makes it plain" in trace(model, IMAGES).group("0").reason
    assert parametrize.is_parametrized(model.get_submodule("2")) == (how != "standardised")
    torch.testing.assert_close(model(IMAGES), before(IMAGES))


def test_a_layer_that_does_more_than_compute_its_weight_is_left_as_it_is() -> None:
    model = chain(standardised(PaddedStdConv))
    plain = plain_weights(model, IMAGES)
    assert type(plain.get_submodule("2")) is PaddedStdConv
    assert torch.equal(plain(IMAGES), model(IMAGES))


def test_training_flags_are_kept() -> None:
    model = chain(nn.Conv2d(8, 6, 3)).train()
    model.get_submodule("2").eval()
    assert [m.training for m in plain_weights(model, IMAGES).modules()] == [m.training for m in model.modules()]
