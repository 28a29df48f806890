"""Noise that is learned: closed forms, gradients, and that nothing of it is left behind."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from tersenet.core.policy import KernelUnit
from tersenet.data import Data
from tersenet.errors import DataError, ModelError
from tersenet.graph import trace
from tersenet.train import TrainConfig, attach_noise, detach_noise, learn_noise, measure_noise, noise_nats, recalibrate
from tersenet.train.variational_terms import (
    information,
    log_alpha,
    log_normal,
    rates,
    standard_normal,
    variational_divergence,
    with_local_noise,
)

UNITS: tuple[KernelUnit | None, ...] = (None, "kernel", "position", "filter_position", "element")
ONES = torch.ones(1, dtype=torch.float64)


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 9, 5),
        nn.Linear(5, 4),
    )


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def divergence_from_uniform(rate: float, *, half_width: float = 12.0) -> float:
    """KL of N(0, rate^2) and the uniform density on an interval, by numerical integration."""

    def integrand(x: float) -> float:
        log_density = -0.5 * (x / rate) ** 2 - math.log(rate * math.sqrt(2 * math.pi))
        return math.exp(log_density) * (log_density + math.log(2 * half_width))

    return float(quad(integrand, -8 * rate, 8 * rate)[0])


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.3, 0.7])
def test_information_is_the_divergence_from_the_log_uniform_prior(rate: float) -> None:
    expected = divergence_from_uniform(rate) - divergence_from_uniform(0.701)
    assert float(information(rate * ONES, max_rate=0.7)) == pytest.approx(expected, abs=1e-6)


def test_rates_lie_between_their_bounds_and_the_largest_carries_nothing() -> None:
    found = rates(torch.tensor([-60.0, 0.0, 60.0], dtype=torch.float64), max_rate=0.7)
    torch.testing.assert_close(found, torch.tensor([0.001, 0.351, 0.701], dtype=torch.float64))
    assert float(information(found[2:], max_rate=0.7)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("value", [-8.0, -3.0, -1.0, 0.0, 1.0, 3.0, 8.0])
def test_the_divergence_of_variational_dropout_is_that_of_numerical_integration(value: float) -> None:
    deviation = math.exp(value / 2)  # eps ~ N(1, alpha)

    def integrand(x: float) -> float:
        return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) * math.log(abs(1 + deviation * x) + 1e-300)

    pole = -1 / deviation
    edges = sorted({-12.0, 12.0, *([pole] if abs(pole) < 12 else [])})
    mean_log = sum(quad(integrand, low, high, limit=200)[0] for low, high in pairwise(edges))
    at_infinity = (np.euler_gamma + math.log(2)) / 2  # minus the mean logarithm of a standard normal's size
    expected = mean_log - value / 2 + at_infinity
    assert float(variational_divergence(value * ONES)) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normal_numbers_keep_shape_layout_and_type_and_are_normal(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    like = torch.ones(40, 50, 10, 20).to(memory_format=layout)
    drawn = standard_normal(like)
    assert (drawn.shape, drawn.stride(), drawn.dtype) == (like.shape, like.stride(), like.dtype)
    places = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
    below = torch.stack([(drawn < place).float().mean() for place in places])
    torch.testing.assert_close(below, torch.special.ndtr(places), atol=0.005, rtol=0.0)
    assert drawn.unique().numel() > 0.9 * drawn.numel()  # type: ignore[no-untyped-call]
    assert float((drawn.square().mean(dim=(1, 2, 3)) - 1.0).abs().max()) < 0.1  # of each sample


def test_noise_has_the_moments_of_its_distribution() -> None:
    torch.manual_seed(0)
    drawn = log_normal(torch.full((400_000,), 0.5, dtype=torch.float64))
    assert float(drawn.log().mean()) == pytest.approx(0.0, abs=0.005)
    assert float(drawn.mean()) == pytest.approx(math.exp(0.125), abs=0.005)
    sums = with_local_noise(2.0 * torch.ones(400_000, dtype=torch.float64), 9.0 * ONES)
    assert float(sums.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(sums.std()) == pytest.approx(3.0, abs=0.02)


def test_closed_forms_have_the_gradients_of_finite_differences() -> None:
    values = torch.linspace(-6.0, 6.0, 7, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([-0.8, -0.1, 0.02, 0.3, 0.5, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: information(rates(v, max_rate=0.7), max_rate=0.7), (values,))
    assert torch.autograd.gradcheck(variational_divergence, (values,))
    assert torch.autograd.gradcheck(lambda w, v: log_alpha(w, v - 4.0), (weights, values))


@pytest.mark.parametrize("unit", UNITS)
def test_noisy_layers_have_the_gradients_of_finite_differences(unit: KernelUnit | None) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 1)).double()
    images = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    attach_noise(model, trace(model, images), num_samples=100, channels=unit is None, unit=unit)
    names = [name for name, _ in model.named_parameters()]
    assert any("noise" in name for name in names)

    def loss(*parameters: Tensor) -> Tensor:
        torch.manual_seed(3)  # the same draw for every difference
        outputs = torch.func.functional_call(model.train(), dict(zip(names, parameters, strict=True)), images)
        first, second = noise_nats(model)
        total: Tensor = outputs.square().mean() + (first + second) / 100
        return total

    values = [(p.detach() + 0.05 * torch.randn_like(p)).requires_grad_() for p in model.parameters()]
    # rates are computed in single precision, which bounds how exact a difference can be
    assert torch.autograd.gradcheck(loss, values, eps=1e-3, atol=2e-3, rtol=2e-2, fast_mode=True)


@pytest.mark.parametrize("unit", UNITS)
def test_noise_is_taken_off_without_a_trace(unit: KernelUnit | None) -> None:
    model = a_network().train()
    modes = {name: module.training for name, module in model.named_modules()}
    model[3].eval()
    modes["3"] = False
    untouched = copy.deepcopy(model)
    names = attach_noise(model, trace(untouched, IMAGES), num_samples=100, unit=unit)
    assert names == ["0", "3", "6"]
    assert set(untouched.state_dict()) < set(model.state_dict())
    measure_noise(model, [IMAGES])
    detach_noise(model)
    assert list(model.state_dict()) == list(untouched.state_dict())
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert [vars(a).keys() for a in model.modules()] == [vars(b).keys() for b in untouched.modules()]


@pytest.mark.parametrize("unit", ["kernel", "position", "filter_position"])
def test_noise_on_units_is_drawn_anew_for_every_eight_samples(unit: KernelUnit) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    attach_noise(model, trace(model, IMAGES), num_samples=100, channels=False, unit=unit)
    outputs = model[0].train()(IMAGES[:1].expand(20, -1, -1, -1))
    assert outputs.shape == (20, 4, 6, 6)
    for part in outputs.split(8):
        assert torch.equal(part, part[:1].expand_as(part))
    assert not torch.allclose(outputs[7], outputs[8], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(outputs[15], outputs[16], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_noise_is_on_in_training_and_off_in_eval(unit: KernelUnit | None) -> None:
    model = a_network().eval()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    norm.momentum = 0.0
    plain = model(IMAGES)
    attach_noise(model, trace(model, IMAGES), num_samples=100, channels=unit is None, unit=unit)
    assert torch.equal(model(IMAGES), plain)
    model[0].train()
    assert not torch.allclose(model(IMAGES), plain, rtol=1e-3, atol=1e-4)
    twin = copy.deepcopy(model)  # has noise of its own
    detach_noise(model)
    assert torch.equal(model(IMAGES), plain)
    assert not torch.allclose(twin(IMAGES), plain, rtol=1e-3, atol=1e-4)


def test_channel_rates_follow_the_input() -> None:
    model = a_network()
    attach_noise(model, trace(model, IMAGES), num_samples=100)
    with torch.no_grad():
        model.get_parameter("0._channel_noise.weight")[2] = 1.0
    small, large = (measure_noise(model, [IMAGES.abs() * scale]).channels["0"] for scale in (0.01, 1.0))
    assert small[2] > large[2] + 0.5  # more noise for larger inputs
    torch.testing.assert_close(small[:2], large[:2])


def test_scores_are_means_over_batches_by_layer() -> None:
    model = a_network()
    attach_noise(model, trace(model, IMAGES), num_samples=100, unit="kernel")
    one, two = measure_noise(model, [IMAGES]), measure_noise(model, [IMAGES, IMAGES])
    assert {name: tuple(score.shape) for name, score in one.units.items()} == {
        "0": (8, 3, 1, 1),
        "3": (6, 4, 1, 1),
        "6": (5, 54),
    }
    assert {name: tuple(score.shape) for name, score in one.channels.items()} == {"0": (8,), "3": (6,), "6": (5,)}
    torch.testing.assert_close(one.units["0"], two.units["0"])
    sizes = model.get_parameter("3.weight").square().mean(dim=(2, 3), keepdim=True).sqrt()
    first = -((0.001 + math.exp(-5) / sizes) / 0.701).log()  # the noise on every kernel begins equally large
    torch.testing.assert_close(one.units["3"], first)
    with pytest.raises(DataError, match="at least one batch"):
        measure_noise(model, [])


def test_attaching_twice_and_networks_without_layers_are_refused() -> None:
    model = a_network()
    graph = trace(model, IMAGES)
    attach_noise(model, graph, num_samples=100)
    with pytest.raises(ModelError, match="detach_noise"):
        attach_noise(model, graph, num_samples=100)
    only = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ModelError, match="No layer"):
        attach_noise(only, trace(only, torch.zeros(1, 3)), num_samples=100)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["kernel", "position", "element"])
def test_a_useless_input_carries_less_than_a_useful_one(unit: KernelUnit) -> None:
    # the larger of the first two channels decides the class, in the middle; all else is noise
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1024, 4, 3, 3, generator=generator)
    classes = (images[:, 0, 1, 1] > images[:, 1, 1, 1]).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    attach_noise(model, trace(model, images[:2]), num_samples=4096, channels=False, unit=unit)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(600):
        torch.manual_seed(step)
        chosen = torch.randint(0, 1024, (128,))
        loss = nn.functional.cross_entropy(model.train()(images[chosen]), classes[chosen])
        loss = loss + min(1.0, step / 200) * sum(noise_nats(model)) / 4096
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    scores = measure_noise(model, [images]).units["0"]
    if unit == "position":
        assert scores[0, 0, 1, 1] == scores.max()
    elif unit == "kernel":
        assert scores[:, :2].mean() > scores[:, 2:].mean() + 0.2
    else:
        assert scores[:, :2, 1, 1].mean() > scores.mean() + 1.0


@pytest.mark.slow
def test_batch_norms_are_measured_anew_with_the_noise_off(digits: Data, digits_cnn: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in digits_cnn.state_dict().items()}
    inputs = [batch for batch, _ in digits.train.source.batches(200, first=400)]
    graph = trace(digits_cnn, digits.example_inputs())
    learned = learn_noise(
        digits_cnn,
        graph,
        digits.train,
        digits.search,
        TrainConfig(epochs=2, learning_rate=0.02, batch_size=64, seed=0),
        calibration=inputs,
        unit="kernel",
    )
    after = digits_cnn.state_dict()
    assert list(after) == list(before)
    assert not torch.equal(after["stem.weight"], before["stem.weight"])
    mean = after["stem_bn.running_mean"].clone()
    recalibrate(digits_cnn, inputs)
    torch.testing.assert_close(digits_cnn.state_dict()["stem_bn.running_mean"], mean)
    assert all(bool(torch.isfinite(score).all()) for score in [*learned.units.values(), *learned.channels.values()])
    assert float(learned.units["conv3"].std()) > 0
