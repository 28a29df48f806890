from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tersenet.transforms import LinearWeights
from tersenet.transforms.quantize import entropy_bits, quantize, squared_error, squared_errors


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error_of(row: Tensor, coded: LinearWeights, channel: int) -> float:
    return float(np.square(row.double().numpy() - coded.values()[channel].astype(np.float64)).sum())


def slow_least_error(row: Tensor, bits: int) -> float:
    """The least squared error over very many fp16 scales, one after the other."""
    largest = 2 ** (bits - 1) - 1
    values = row.double().numpy()
    scales = np.linspace(0.01, 1.1, 4000) * np.abs(values).max() / largest
    errors = []
    for scale in np.unique(scales.astype(np.float16)).astype(np.float64):
        stored = np.clip(np.rint(values / scale), -largest, largest) * scale
        errors.append(np.square(values - stored).sum())
    return float(min(errors))


def test_three_bits_by_hand() -> None:
    weight = torch.tensor([[3.0, 1.0, -2.0, 0.0], [0.5, -1.5, 1.0, 1.5]])
    coded = quantize(weight, 3, axis=0)  # both rows lie on a grid of 3 steps
    np.testing.assert_array_equal(coded.integers, [[3, 1, -2, 0], [1, -3, 2, 3]])
    np.testing.assert_array_equal(coded.scales, np.array([1.0, 0.5], dtype=np.float16))
    np.testing.assert_array_equal(coded.values(), weight.numpy())
    assert [str(array.dtype) for array in (coded.integers, coded.scales)] == ["int8", "float16"]
    assert (coded.weight_bits, coded.axis) == (3, 0)


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    coded = quantize(torch.tensor([[1.0, -2.0, 0.0, 4.0], [-0.5, -0.5, 0.25, 0.25]]), 1, axis=0)
    np.testing.assert_array_equal(coded.integers, [[1, -1, 1, 1], [-1, -1, 1, 1]])
    np.testing.assert_array_equal(coded.scales, np.array([1.75, 0.375], dtype=np.float16))


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "one outlier"])
def test_the_error_is_as_small_as_a_slow_search_finds(bits: int, kind: str) -> None:
    weight = normal(3, 90)
    if kind == "heavy tails":
        weight = weight**3
    if kind == "one outlier":
        weight[:, 7] = 20.0
    coded = quantize(weight, bits, axis=0)
    slack = 1.02 if bits < 8 else 1.1  # with wide integers the error jumps from scale to scale, all of it tiny
    for channel, row in enumerate(weight):
        assert error_of(row, coded, channel) <= slack * slow_least_error(row, bits)


def test_clipping_beats_the_largest_weight_where_bits_are_few() -> None:
    weight = normal(1, 500)
    largest = float(weight.abs().max())
    stored = (weight / largest).round() * largest  # 2 bits without clipping: -1, 0, 1 times the largest weight
    assert squared_error(weight, quantize(weight, 2, axis=0)) < 0.5 * float((weight - stored).square().sum())


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 5)])
def test_each_channel_has_a_scale_of_its_own_along_either_axis(shape: tuple[int, ...]) -> None:
    weight = normal(*shape) * torch.logspace(-3, 1, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    along_0 = quantize(weight, 4, axis=0)
    along_1 = quantize(weight.transpose(0, 1), 4, axis=1)
    np.testing.assert_array_equal(along_1.scales, along_0.scales)
    np.testing.assert_array_equal(along_1.values(), np.swapaxes(along_0.values(), 0, 1))
    assert along_1.integers.flags["C_CONTIGUOUS"]
    for channel in range(shape[0]):
        alone = quantize(weight[channel : channel + 1], 4, axis=0)
        np.testing.assert_array_equal(alone.values()[0], along_0.values()[channel])


def test_integers_make_up_for_the_rounding_of_scales() -> None:
    weight = normal(4, 200)
    coded = quantize(weight, 8, axis=0)
    scales = coded.scales.astype(np.float64)[:, None]
    nearest = np.clip(np.rint(weight.double().numpy() / scales), -127, 127)
    np.testing.assert_array_equal(coded.integers, nearest)
    exact = squared_error(weight, quantize(weight, 8, axis=0, scale_bits=32))
    assert squared_error(weight, coded) < 1.05 * exact


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_channels_of_zeros_and_of_tiny_or_huge_weights_are_finite(bits: int) -> None:
    weight = torch.stack([torch.zeros(4), torch.full((4,), 1e-9), torch.full((4,), 1e-6), torch.full((4,), 3e7)])
    coded = quantize(weight, bits, axis=0)
    values = coded.values()
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values[:2], np.zeros((2, 4)))  # below half of the smallest fp16
    # one unit of fp16 down there is 6e-8
    np.testing.assert_allclose(values[2], 1e-6, atol=6e-8)
    assert (values[3] == 65504.0 * (2 ** (bits - 1) - 1 or 1)).all() if bits < 8 else (values[3] > 6e6).all()
    np.testing.assert_array_equal(coded.integers[0], np.full(4, 1 if bits == 1 else 0))


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(1, 8), size=st.integers(1, 40), seed=st.integers(0, 999), power=st.integers(-9, 6))
def test_integers_stay_in_range_and_never_do_worse_than_zeros(bits: int, size: int, seed: int, power: int) -> None:
    weight = normal(3, size, seed=seed) ** 3 * 10.0**power
    coded = quantize(weight, bits, axis=0)
    largest = max(1, 2 ** (bits - 1) - 1)
    assert np.abs(coded.integers.astype(int)).max() <= largest
    assert bits > 1 or set(np.unique(coded.integers)) <= {-1, 1}
    assert squared_error(weight, coded) <= float(weight.double().square().sum()) * (1 + 1e-6)


def test_more_bits_never_cost_accuracy_and_the_table_is_that_of_each_width() -> None:
    weight = normal(8, 72)
    table = squared_errors(weight, axis=0)
    assert list(table) == list(range(1, 9))
    assert all(table[bits] > table[bits + 1] for bits in range(1, 8))
    for bits, error in table.items():
        assert error == pytest.approx(np.square(weight.numpy() - quantize(weight, bits, axis=0).values()).sum(), 1e-5)


def test_entropy_is_scipys_over_all_integers() -> None:
    coded = quantize(normal(5, 100), 4, axis=0)
    counts = np.bincount(coded.integers.ravel().astype(int) + 7)
    assert entropy_bits(coded) == pytest.approx(scipy.stats.entropy(counts, base=2))
    assert entropy_bits(quantize(torch.ones(2, 3), 1, axis=0)) == 0.0


def test_the_weight_stays_as_it_was_whatever_its_kind() -> None:
    weight = torch.nn.Parameter(normal(4, 3, 2, 2).to(torch.bfloat16).to(memory_format=torch.channels_last))
    before = weight.detach().clone()
    coded = quantize(weight, 4, axis=0)
    assert torch.equal(weight, before)
    np.testing.assert_array_equal(coded.values(), quantize(before.float(), 4, axis=0).values())


@pytest.mark.parametrize(
    ("weight", "bits", "axis", "scale_bits", "message"),
    [
        (torch.ones(2, 2), 0, 0, 16, "weight_bits must lie between 1 and 8, got 0"),
        (torch.ones(2, 2), 9, 0, 16, "got 9"),
        (torch.ones(2, 2), 4, 2, 16, "axis be 0 or 1"),
        (torch.ones(2), 4, 0, 16, "two axes"),
        (torch.ones(2, 0), 4, 0, 16, "no values"),
        (torch.ones(2, 2), 4, 0, 8, "scale_bits must be 16 or 32, got 8"),
        (torch.tensor([[1.0, float("nan")]]), 4, 0, 16, "not finite"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    weight: Tensor, bits: int, axis: int, scale_bits: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantize(weight, bits, axis=axis, scale_bits=scale_bits)  # type: ignore[arg-type]
