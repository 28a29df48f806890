"""Shared weights: what a decision becomes, what every k costs, and where the values go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import entropy
from torch import Tensor, nn

from tersenet.core.policy import Clusters
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import trace
from tersenet.testing.networks import build, example_inputs
from tersenet.transforms import (
    ClusterCache,
    Coder,
    SharedWeights,
    clusterable_layers,
    clusters,
    share_weights,
    write_values,
)
from tersenet.transforms.kmeans import Clusterings, cluster


def weight(*shape: int, seed: int = 0, share_of_zeros: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator)
    return drawn * (torch.rand(shape, generator=generator) >= share_of_zeros)


def error(before: Tensor, coded: SharedWeights) -> float:
    return float(np.square(before.double().numpy() - coded.values()).sum())


def used_entries(coded: SharedWeights) -> list[int]:
    """Entries in use per codebook."""
    indices_O = np.moveaxis(coded.indices, coded.axis, 0)
    size = coded.channels_per_codebook
    return [len(np.unique(indices_O[at : at + size])) for at in range(0, len(indices_O), size)]


@pytest.mark.parametrize("k", [2, 3, 5, 16, 100, 300])
@pytest.mark.parametrize("codebook_bits", [16, 32])
def test_any_k_gives_rounded_ascending_values_and_every_weight_the_nearest(k: int, codebook_bits: Any) -> None:
    given = weight(8, 6, 3, 3)
    coded = share_weights(given, Clusters(n_clusters=k, codebook_bits=codebook_bits))
    assert coded.codebooks.dtype == {16: np.float16, 32: np.float32}[codebook_bits]
    assert coded.codebooks.shape == (1, k)
    assert coded.indices.dtype == (np.uint8 if k <= 256 else np.uint16)
    assert (np.diff(coded.codebooks.astype(float)) > 0).all()
    distances = np.abs(given.numpy()[..., None].astype(float) - coded.codebooks[0].astype(float))
    np.testing.assert_array_equal(coded.indices, distances.argmin(axis=-1))
    np.testing.assert_array_equal(coded.values(), coded.codebooks[0].astype(np.float32)[coded.indices])


def test_six_weights_are_shared_as_by_hand() -> None:
    given = torch.tensor([[1.0, 0.0, -2.0], [1.5, 0.0, -2.5]])
    coded = share_weights(given, Clusters(n_clusters=2))
    # the zeros are an entry of their own, k = 2 serves {1, 1.5} and {-2, -2.5}
    np.testing.assert_array_equal(coded.codebooks, np.array([[-2.25, 0.0, 1.25]], dtype=np.float16))
    np.testing.assert_array_equal(coded.indices, [[2, 1, 0], [2, 1, 0]])


@pytest.mark.parametrize("k", [2, 7, 255, 256])
def test_pruned_weights_stay_zero_and_their_entry_does_not_count(k: int) -> None:
    given = weight(16, 40, seed=3, share_of_zeros=0.4)
    coded = share_weights(given, Clusters(n_clusters=k))
    assert coded.codebooks.shape == (1, k + 1)
    assert 0.0 in coded.codebooks
    assert (coded.values()[given.numpy() == 0] == 0).all()
    assert coded.indices.dtype == (np.uint8 if k < 256 else np.uint16)


def test_weights_that_are_all_zero_have_a_codebook_of_zero() -> None:
    coded = share_weights(torch.zeros(3, 2), Clusters(n_clusters=4))
    np.testing.assert_array_equal(coded.codebooks, [[0.0]])
    np.testing.assert_array_equal(coded.values(), np.zeros((3, 2)))


def test_a_k_above_the_number_of_values_gives_them_back() -> None:
    given = torch.tensor([[0.5, -1.0, 0.5], [0.25, 0.0, -1.0]])
    for k in (3, 200, 5000):
        coded = share_weights(given, Clusters(n_clusters=k))
        np.testing.assert_array_equal(coded.codebooks, [[-1.0, 0.0, 0.25, 0.5]])
        np.testing.assert_array_equal(coded.values(), given)


def test_very_many_clusters_are_served_too() -> None:
    given = weight(60, 50)
    coded = share_weights(given, Clusters(n_clusters=1500, codebook_bits=32))
    assert 1400 < coded.codebooks.shape[1] <= 1500
    assert coded.indices.dtype == np.uint16
    assert error(given, coded) < 0.2 * error(given, share_weights(given, Clusters(n_clusters=500, codebook_bits=32)))


def test_values_that_rounding_makes_equal_are_one_entry() -> None:
    given = torch.tensor([[1.0, 1.0 + 2.0**-20], [2.0, 3.0]])
    coded = share_weights(given, Clusters(n_clusters=4, codebook_bits=16))
    np.testing.assert_array_equal(coded.codebooks, [[1.0, 2.0, 3.0]])
    assert share_weights(given, Clusters(n_clusters=4, codebook_bits=32)).codebooks.shape == (1, 4)


@pytest.mark.parametrize(("shape", "axis"), [((7, 3, 2, 2), 0), ((3, 7, 2, 2), 1), ((7, 30), 0)])
def test_every_block_of_output_channels_is_shared_as_if_it_were_alone(shape: tuple[int, ...], axis: int) -> None:
    given = weight(*shape, seed=5)
    given.movedim(axis, 0)[3:5] = 0.25  # the second block has one value, the last block one channel
    coded = share_weights(given, Clusters(n_clusters=4, channels_per_codebook=3), axis=axis)
    assert (coded.axis, coded.channels_per_codebook, len(coded.codebooks)) == (axis, 3, 3)
    values_O = np.moveaxis(coded.values(), axis, 0)
    for block, part in enumerate(torch.split(given.movedim(axis, 0), 3)):
        alone = share_weights(part, Clusters(n_clusters=4))
        np.testing.assert_array_equal(values_O[3 * block : 3 * block + 3], alone.values())
    assert (np.diff(coded.codebooks.astype(float), axis=1) >= 0).all()


def test_blocks_wider_than_the_layer_are_one_codebook() -> None:
    given = weight(4, 9)
    wide = share_weights(given, Clusters(n_clusters=3, channels_per_codebook=100))
    assert (wide.channels_per_codebook, len(wide.codebooks)) == (4, 1)
    np.testing.assert_array_equal(wide.values(), share_weights(given, Clusters(n_clusters=3)).values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_formats_are_shared_as_their_fp32_values(dtype: torch.dtype) -> None:
    given = weight(6, 20).to(dtype).requires_grad_()
    coded = share_weights(given, Clusters(n_clusters=5))
    plain = share_weights(given.detach().float(), Clusters(n_clusters=5))
    np.testing.assert_array_equal(coded.values(), plain.values())


def test_values_too_large_for_the_codebook_and_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(PolicyError, match=r"reach 70000, .*codebook_bits to 32"):
        share_weights(torch.tensor([[7e4, 1.0, 2.0]]), Clusters(n_clusters=3))
    with pytest.raises(ModelError, match="NaN"):
        share_weights(torch.tensor([[float("nan"), 1.0]]), Clusters(n_clusters=2))


@pytest.mark.parametrize("per_codebook", [None, 3])
@pytest.mark.parametrize("share_of_zeros", [0.0, 0.5])
def test_curves_are_what_the_coded_weights_cost(per_codebook: int | None, share_of_zeros: float) -> None:
    given = weight(7, 30, share_of_zeros=share_of_zeros)
    curves = ClusterCache(max_k=40).curves(given, channels_per_codebook=per_codebook)
    assert np.isnan(curves.squared_errors[:2]).all()
    assert len(curves.squared_errors) == 41
    for k in (2, 3, 17, 40):
        coded = share_weights(given, Clusters(n_clusters=k, channels_per_codebook=per_codebook))
        blocks = np.split(coded.indices, range(3, 7, 3)) if per_codebook else [coded.indices]
        bits = sum(entropy(np.bincount(block.ravel()), base=2) * block.size for block in blocks)
        assert curves.squared_errors[k] == pytest.approx(error(given, coded), rel=1e-6, abs=1e-9)
        assert curves.index_bits[k] == pytest.approx(bits)
        assert curves.num_entries[k] == sum(used_entries(coded))


def noted_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The largest k of each clustering from now on."""
    calls: list[int] = []

    def noting(values: Any, *, max_k: int) -> Clusterings:
        calls.append(max_k)
        return cluster(values, max_k=max_k)

    monkeypatch.setattr(clusters, "cluster", noting)
    return calls


def test_nothing_is_clustered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted_calls(monkeypatch)
    cache, given = ClusterCache(max_k=16), weight(5, 60)
    for k in (4, 9, 16, 4):
        share_weights(given.clone(), Clusters(n_clusters=k), cache=cache)
    assert calls == [16]
    assert cache.curves(given) is cache.curves(given.clone())
    assert calls == [16]
    share_weights(given, Clusters(n_clusters=30), cache=cache)
    share_weights(given, Clusters(n_clusters=20), cache=cache)
    assert calls == [16, 30]
    share_weights(given + 1, Clusters(n_clusters=4), cache=cache)
    assert calls == [16, 30, 16]


def test_a_full_cache_forgets_what_was_not_used_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = noted_calls(monkeypatch)
    cache, (a, b, c) = ClusterCache(max_k=4, max_tensors=2), [weight(3, 5, seed=seed) for seed in range(3)]
    for given in (a, b, a, c, a, b):
        share_weights(given, Clusters(n_clusters=2), cache=cache)
    assert len(calls) == 4  # a, b, c, and b again


def test_a_cache_changes_no_result() -> None:
    cache = ClusterCache(max_k=64)
    for k, seed in itertools.product((2, 5, 64), (0, 1)):
        given = weight(8, 50, seed=seed)
        cached = share_weights(given, Clusters(n_clusters=k), cache=cache)
        np.testing.assert_array_equal(cached.values(), share_weights(given, Clusters(n_clusters=k)).values())
    with pytest.raises(ValueError, match="max_k=1"):
        ClusterCache(max_k=1)


def traced(name: str) -> tuple[nn.Module, Any]:
    model = build(name)
    return model, trace(model, example_inputs(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "unet", "tied_weights", "grouped_conv", "depthwise"])
def test_layers_of_a_network_hold_the_values_that_were_written(name: str) -> None:
    model, graph = traced(name)
    decisions = {layer: Clusters(n_clusters=3) for layer in clusterable_layers(model, graph)}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    coded = Coder().code(model, graph, decisions)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    write_values(model, coded)
    layers = {layer.name: layer for layer in graph.layers}
    assert {layers[name].weight for name in decisions} == set(coded)
    for key, tensor in model.state_dict().items():
        if key in coded:
            np.testing.assert_array_equal(tensor, coded[key].values())
            assert len(torch.unique(tensor)) == 3
    others = set(before) - set(coded) - {"right.weight"}  # tied to left.weight
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in others)


def test_transposed_convolutions_are_blocked_along_their_outputs() -> None:
    model, graph = traced("unet")
    layer = next(layer for layer in graph.layers if layer.op == "conv_transpose")
    coded = Coder().code(model, graph, {layer.name: Clusters(n_clusters=2, channels_per_codebook=1)})[layer.weight]
    assert isinstance(coded, SharedWeights)
    assert coded.axis == 1
    assert len(coded.codebooks) == coded.indices.shape[1]
    assert used_entries(coded) == [2] * len(coded.codebooks)


def test_layers_without_enough_values_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.arange(24).reshape(6, 4) % 5)  # 1 to 4, and zeros
        model.get_parameter("2.weight").fill_(0.5)
    graph = trace(model, torch.randn(2, 4))
    assert clusterable_layers(model, graph) == {"0": 4, "4": 6}


def test_tied_weights_go_by_the_name_of_the_first_layer() -> None:
    model, graph = traced("tied_weights")
    assert list(clusterable_layers(model, graph)) == ["left", "after_left", "after_right", "head"]
    with pytest.raises(PolicyError, match=r"'right'.* name of the first"):
        Coder().code(model, graph, {"right": Clusters(n_clusters=2)})
    write_values(model, Coder().code(model, graph, {"left": Clusters(n_clusters=2)}))
    assert model.get_parameter("left.weight") is model.get_parameter("right.weight")
    assert len(torch.unique(model.get_parameter("right.weight"))) == 2


def test_names_and_shapes_of_another_model_are_refused_and_nothing_is_written() -> None:
    model, graph = traced("plain")
    with pytest.raises(PolicyError, match="'nowhere'"):
        Coder().code(model, graph, {"nowhere": Clusters(n_clusters=2)})
    layer = graph.layers[0]
    coded = Coder().code(model, graph, {layer.name: Clusters(n_clusters=2)})[layer.weight]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(PolicyError, match=r"'nowhere\.weight'"):
        write_values(model, {layer.weight: coded, "nowhere.weight": coded})
    with pytest.raises(PolicyError, match="shape"):
        write_values(model, {layer.weight: coded, graph.layers[1].weight: coded})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_an_error_names_the_layer() -> None:
    model, graph = traced("plain")
    with torch.no_grad():
        model.get_parameter(graph.layers[0].weight).fill_(1e5)
    with pytest.raises(PolicyError, match=f"^Layer '{graph.layers[0].name}': "):
        Coder().code(model, graph, {graph.layers[0].name: Clusters(n_clusters=2)})


def test_a_weight_near_the_fixed_zero_takes_it() -> None:
    given = torch.tensor([[0.0, 0.01, 4.0, 4.0, 4.0, -4.0, -4.0]])
    coded = share_weights(given, Clusters(n_clusters=2))
    expected: NDArray[np.float32] = coded.values()
    assert expected[0, 1] == 0.0
