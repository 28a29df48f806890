from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet.data import Data
from tersenet.data.batches import BatchSource
from tersenet.data.splits import SearchSplit, TrainSplit
from tersenet.errors import PolicyError
from tersenet.measurement import accuracy
from tersenet.testing.networks import build, example_inputs
from tersenet.train import TrainConfig, fit
from tersenet.train.lsq import LearnedSteps, attach_steps, detach_steps
from tersenet.train.optimizer import split_parameters
from tersenet.transforms import LinearWeights
from tersenet.transforms.quantize import quantize

Array = NDArray[np.float64]


def coded_weights(model: nn.Module, bits: int, *, scale_bits: Literal[16, 32] = 16) -> dict[str, LinearWeights]:
    return {
        name: quantize(tensor, bits, axis=0, scale_bits=scale_bits)
        for name, tensor in model.named_parameters()
        if tensor.ndim >= 2
    }


def small_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5)).eval()


def weight_of(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def gradients(latent: Array, scales: Array, bits: int, upstream: Array) -> tuple[Array, Array]:
    """Of the sum of ``upstream`` times the quantised weights: by the latent weights, and by the steps."""
    coded = LinearWeights(
        integers=np.zeros(latent.shape, dtype=np.int8), scales=scales.astype(np.float32), weight_bits=bits, axis=0
    )
    module = LearnedSteps(coded, torch.empty(0))
    weights = torch.tensor(latent, dtype=torch.float32, requires_grad=True)
    (module(weights) * torch.tensor(upstream, dtype=torch.float32)).sum().backward()
    assert weights.grad is not None
    assert module.steps.grad is not None
    return weights.grad.double().numpy(), module.steps.grad.double().numpy()


def test_gradients_are_those_of_equations_3_and_5_by_hand() -> None:
    # 3 bits, Q = 3, step 0.5: the weights are 0.8, 2.4, -7 and 0.2 steps
    by_weight, by_step = gradients(
        np.array([[0.4, 1.2, -3.5, 0.1]]), np.array([0.5]), 3, np.array([[1.0, 10.0, 100.0, 1000.0]])
    )
    np.testing.assert_allclose(by_weight, [[1.0, 10.0, 0.0, 1000.0]], rtol=1e-6)
    # rounded minus value inside, -Q below: 1 - 0.8, 2 - 2.4, -3, 0 - 0.2; times g = 1 / sqrt(4 * 3)
    expected = (0.2 * 1 - 0.4 * 10 - 3 * 100 - 0.2 * 1000) / np.sqrt(12)
    np.testing.assert_allclose(by_step, [expected], rtol=1e-5)


def test_one_bit_passes_the_gradient_on_and_learns_the_magnitude() -> None:
    by_weight, by_step = gradients(np.array([[0.4, -9.0, 0.0, -0.1]]), np.array([0.5]), 1, np.array([[1, 2, 4, 8.0]]))
    np.testing.assert_allclose(by_weight, [[1, 2, 4, 8]], rtol=1e-6)
    np.testing.assert_allclose(by_step, [(1 - 2 + 4 - 8) / np.sqrt(4)], rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradients_are_finite_differences_of_the_surrogate(bits: int) -> None:
    rng = np.random.default_rng(bits)
    largest = 2 ** (bits - 1) - 1
    latent, scales = rng.normal(size=(3, 20)), rng.uniform(0.3, 0.6, size=3) * 4 / largest
    scales = scales.astype(np.float32).astype(np.float64)
    upstream = rng.normal(size=latent.shape)
    ratio = np.clip(latent / scales[:, None], -largest, largest)
    offset = np.rint(ratio) - ratio  # what rounding adds, held constant

    def surrogate(latent: Array, scales: Array) -> float:
        inside = np.clip(latent / scales[:, None], -largest, largest)
        return float((upstream * (inside + offset) * scales[:, None]).sum())

    def difference(move_latent: Array, move_scales: Array) -> float:
        up = surrogate(latent + move_latent, scales + move_scales)
        return (up - surrogate(latent - move_latent, scales - move_scales)) / 2e-7

    by_weight, by_step = gradients(latent, scales, bits, upstream)
    for channel in range(3):
        move = np.eye(3)[channel] * 1e-7
        slope = difference(np.zeros_like(latent), move) / np.sqrt(20 * largest)
        assert by_step[channel] == pytest.approx(slope, rel=1e-3, abs=1e-3)
        for index in range(20):
            move_latent = np.zeros_like(latent)
            move_latent[channel, index] = 1e-7
            assert by_weight[channel, index] == pytest.approx(difference(move_latent, np.zeros(3)), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
@pytest.mark.parametrize("scale_bits", [16, 32])
def test_an_attached_network_computes_with_the_coded_weights_and_detaching_leaves_exactly_these(
    bits: int, scale_bits: Literal[16, 32]
) -> None:
    model = small_net()
    latent = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    coded = coded_weights(model, bits, scale_bits=scale_bits)
    stored = copy.deepcopy(model)
    with torch.no_grad():
        for name, weights in coded.items():
            stored.get_parameter(name).copy_(torch.from_numpy(weights.values()))
    names = list(model.state_dict())
    attach_steps(model, coded)
    assert torch.equal(model.get_parameter("0.parametrizations.weight.original"), latent["0.weight"])
    assert torch.equal(model(images()), stored(images()))
    found = detach_steps(model)
    assert found.keys() == coded.keys()
    assert list(model.state_dict()) == names  # in the same order
    assert [type(module) for module in model] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten, nn.Linear]
    for name, weights in coded.items():
        np.testing.assert_array_equal(found[name].integers, weights.integers)
        np.testing.assert_array_equal(found[name].scales, weights.scales)
        np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), weights.values())
    assert torch.equal(model(images()), stored(images()))


def test_only_the_named_weights_are_quantised_and_nothing_else_changes() -> None:
    model = small_net()
    before = copy.deepcopy(model)
    attach_steps(model, {"0.weight": coded_weights(model, 2)["0.weight"]})
    assert torch.equal(weight_of(model[4]), weight_of(before[4]))
    assert not torch.equal(weight_of(model[0]), weight_of(before[0]))
    assert detach_steps(before) == {}


def test_steps_are_not_decayed_and_latent_weights_are() -> None:
    model = small_net()
    attach_steps(model, coded_weights(model, 4))
    decayed, plain = split_parameters(model)
    assert {p.ndim for p in decayed} == {2, 4}
    steps = [module.steps for module in model.modules() if isinstance(module, LearnedSteps)]
    assert len(steps) == 2
    assert {id(step) for step in steps} <= {id(p) for p in plain}


def test_a_copy_and_a_restored_state_compute_the_same_and_stand_on_their_own() -> None:
    model = small_net()
    attach_steps(model, coded_weights(model, 3))
    duplicate = copy.deepcopy(model)
    other = small_net(seed=7)
    attach_steps(other, coded_weights(other, 3))
    other.load_state_dict(model.state_dict())
    expected = model(images())
    assert torch.equal(duplicate(images()), expected)
    assert torch.equal(other(images()), expected)
    with torch.no_grad():
        next(m for m in duplicate.modules() if isinstance(m, LearnedSteps)).steps.mul_(2.0)
    assert not torch.equal(duplicate(images()), expected)
    detach_steps(duplicate)
    assert torch.equal(model(images()), expected)  # also after a copy has lost its steps
    assert len(detach_steps(model)) == 2


def halves(seed: int) -> BatchSource:
    """Two classes: a bright left or a bright right half."""
    pictures, targets = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(seed)), torch.arange(64) % 2
    pictures[targets == 0, ..., :2] += 0.5
    pictures[targets == 1, ..., 2:] += 0.5
    return BatchSource([(pictures[i : i + 16], targets[i : i + 16]) for i in range(0, 64, 16)])


@pytest.mark.parametrize("bits", [1, 2])
def test_fit_trains_steps_and_what_it_measured_is_what_detaching_leaves(bits: int, tmp_path: Path) -> None:
    train, search = TrainSplit(halves(0)), SearchSplit(halves(1))
    config = TrainConfig(seed=0, epochs=4, batch_size=16, learning_rate=0.05, autocast="off", channels_last="off")
    model, again = small_net(), small_net()
    coded = coded_weights(model, bits)
    for net in (model, again):
        attach_steps(net, coded)
        result = fit(net, train, search, config, checkpoint=tmp_path / "fit.pt")  # the second one reads it back
    assert result.best_quality > 70.0
    found, read = detach_steps(model), detach_steps(again)
    assert accuracy(model, search.source).top1 == result.best_quality
    assert not np.array_equal(found["4.weight"].scales, coded["4.weight"].scales)  # no norm behind it undoes its scale
    for name, weights in found.items():
        assert set(np.unique(weights.integers)) <= {-1, 0, 1}
        np.testing.assert_array_equal(read[name].values(), weights.values())


@pytest.mark.slow
def test_fine_tuning_two_bits_regains_what_rounding_lost(digits_cnn: nn.Module, digits: Data) -> None:
    dense = copy.deepcopy(digits_cnn)
    attach_steps(digits_cnn, coded_weights(digits_cnn, 2))
    untuned = accuracy(digits_cnn, digits.search.source).top1
    config = TrainConfig(seed=0, epochs=3, batch_size=64, learning_rate=0.02, distill_weight=0.5)
    assert fit(digits_cnn, digits.train, digits.search, config, teacher=dense).best_quality > untuned + 1.0


def test_tied_weights_stay_one_tensor() -> None:
    model, inputs = build("tied_weights"), example_inputs("tied_weights")
    attach_steps(model, coded_weights(model, 4))
    assert torch.equal(weight_of(model.left), weight_of(model.right))
    expected = model(*inputs)
    found = detach_steps(model)
    assert model.get_parameter("left.weight") is model.get_parameter("right.weight")
    assert "left.weight" in found
    assert "right.weight" not in found
    assert torch.equal(model(*inputs), expected)


@pytest.mark.parametrize("bits", [1, 4])
def test_a_channel_of_zeros_stays_finite_and_can_grow(bits: int) -> None:
    linear = nn.Linear(6, 2)
    with torch.no_grad():
        linear.weight[0] = 0.0
    attach_steps(linear, {"weight": quantize(linear.weight, bits, axis=0)})
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        optimizer.zero_grad()
        (linear(inputs)[:, 0] - inputs.sum(dim=1)).square().mean().backward()  # the best row is all ones
        optimizer.step()
    values = detach_steps(linear)["weight"].values()
    assert np.isfinite(values).all()
    assert (values[0] > 0.3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_precision_keep_it(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 2).to(dtype)
    attach_steps(model, {"weight": quantize(model.weight, 4, axis=0)})
    assert model.weight.dtype == dtype
    model(torch.ones(1, 6, dtype=dtype)).sum().backward()
    detach_steps(model)
    assert model.weight.dtype == dtype


def test_weights_of_another_model_are_refused_and_nothing_changes() -> None:
    model = small_net()
    good = coded_weights(model, 4)
    with pytest.raises(PolicyError, match=r"no parameter 'conv\.weight'"):
        attach_steps(model, {**good, "conv.weight": good["0.weight"]})
    with pytest.raises(PolicyError, match=r"shape of '4\.weight' is \(5, 16\), but \(4, 3, 3, 3\)"):
        attach_steps(model, {"0.weight": good["0.weight"], "4.weight": good["0.weight"]})
    assert detach_steps(model) == {}
    attach_steps(model, good)
    with pytest.raises(PolicyError, match="detach_steps"):
        attach_steps(model, good)
