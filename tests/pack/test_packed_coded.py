from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_nets import CodedNet, coded_net, coded_policy, coded_weights
from torch import nn

from tersenet.core.plan import Plan
from tersenet.core.policy import Clusters, Linear, Policy, Raw, Storage
from tersenet.errors import PolicyError
from tersenet.pack import (
    as_stored,
    bytes_per_element,
    coded_bytes,
    estimate_overhead,
    load,
    packed_bytes,
    read_info,
    save_packed,
)
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights


def saved(path: Path, model: nn.Module, policy: Policy, coded: dict[str, CodedWeights], **options: Any) -> int:
    return save_packed(path, model, plan=Plan(), policy=policy, provenance={}, coded=coded, **options)


def linear_layer(bits: int, outputs: int = 40, inputs: int = 50) -> tuple[nn.Linear, dict[str, CodedWeights]]:
    """A layer of random integers, every one of the width among them."""
    rng = np.random.default_rng(bits)
    largest = max(1, 2 ** (bits - 1) - 1)
    known = [-1, 1] if bits == 1 else list(range(-largest, largest + 1))
    integers = np.concatenate([known, rng.choice(known, outputs * inputs - len(known))]).reshape(outputs, inputs)
    scales = rng.random(outputs).astype(np.float16)
    weights = LinearWeights(integers=integers.astype(np.int8), scales=scales, weight_bits=bits, axis=0)
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(
            torch.tensor(integers, dtype=torch.float32) * torch.tensor(scales.astype(np.float32))[:, None]
        )
    return layer, {"weight": weights}


def shared_layer(entries: int, outputs: int = 40, inputs: int = 50) -> tuple[nn.Linear, dict[str, CodedWeights]]:
    """A layer of random indices into one codebook; half of the weights are zero."""
    rng = np.random.default_rng(entries)
    codebook = np.sort(rng.standard_normal(entries)).astype(np.float16)
    codebook[np.abs(codebook).argmin()] = 0.0
    codebook.sort()
    indices = rng.integers(0, entries, (outputs, inputs))
    indices[rng.random(indices.shape) < 0.5] = int(np.flatnonzero(codebook == 0.0)[0])
    dtype = np.uint8 if entries <= 256 else np.uint16
    weights = SharedWeights(
        codebooks=codebook[None], indices=indices.astype(dtype), axis=0, channels_per_codebook=outputs
    )
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(codebook.astype(np.float32)[indices]))
    return layer, {"weight": weights}


def test_a_network_of_every_form_comes_back_bit_by_bit(tmp_path: Path) -> None:
    model = coded_net()
    saved(tmp_path / "net", model, coded_policy(), coded_weights())
    loaded = load(tmp_path / "net", CodedNet())
    for name, values in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values)


@pytest.mark.parametrize("bits", range(1, 9))
def test_integers_of_every_width_come_back_at_about_their_entropy(bits: int, tmp_path: Path) -> None:
    layer, coded = linear_layer(bits)
    saved(tmp_path / "net", layer, Policy(storage={"": Linear(weight_bits=bits)}), coded)
    assert torch.equal(load(tmp_path / "net", nn.Linear(50, 40, bias=False)).get_parameter("weight"), layer.weight)
    (tensor,) = read_info(tmp_path / "net").tensors
    assert tensor.plain_bytes == 2 * 40
    num_integers = 2 if bits == 1 else 2**bits - 1
    uniform = 2000 * np.log2(num_integers) / 8  # about what equally frequent integers take
    assert uniform * 0.97 - 1 < tensor.entropy_bytes < uniform * 1.02 + num_integers
    assert tensor.bits_per_weight == pytest.approx(8 * (80 + tensor.entropy_bytes) / 2000)


@pytest.mark.parametrize("entries", [1, 2, 3, 16, 255, 256, 257, 1000])
def test_codebooks_of_many_sizes_come_back(entries: int, tmp_path: Path) -> None:
    layer, coded = shared_layer(entries)
    saved(tmp_path / "net", layer, Policy(storage={"": Clusters(n_clusters=max(2, entries))}), coded)
    assert torch.equal(load(tmp_path / "net", nn.Linear(50, 40, bias=False)).get_parameter("weight"), layer.weight)
    (tensor,) = read_info(tmp_path / "net").tensors
    assert tensor.plain_bytes == 2 * entries
    assert (tensor.entropy_bytes == 0) == (entries == 1)


def test_weights_that_are_tied_are_coded_once_and_named_by_either(tmp_path: Path) -> None:
    for stored_as, given_as in (("0", "1.weight"), ("1", "0.weight"), ("1", "1.weight")):
        layer, coded = shared_layer(5, 50, 50)
        model = nn.Sequential(layer, nn.Linear(50, 50, bias=False))
        model[1].weight = layer.weight
        saved(tmp_path / "net", model, Policy(storage={stored_as: Clusters(n_clusters=5)}), {given_as: coded["weight"]})
        assert [tensor.codec.partition(" ")[0] for tensor in read_info(tmp_path / "net").tensors] == [
            "clusters",
            "same",
        ]
        fresh = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
        loaded = load(tmp_path / "net", fresh)
        assert torch.equal(loaded.get_parameter("0.weight"), layer.weight)
        assert torch.equal(loaded.get_parameter("1.weight"), layer.weight)


def test_a_copy_as_stored_is_the_network_that_is_loaded(tmp_path: Path) -> None:
    untouched = CodedNet()
    options: dict[str, Any] = {"dtype": "fp16", "norms": "folded", "coded": coded_weights()}
    stored = as_stored(untouched, policy=coded_policy(), **options)
    save_packed(tmp_path / "net", stored, plan=Plan(), policy=coded_policy(), provenance={}, **options)
    loaded = load(tmp_path / "net", CodedNet()).state_dict()
    for name, values in stored.state_dict().items():
        assert torch.equal(loaded[name], values)
    assert torch.equal(loaded["up.weight"], coded_net().state_dict()["up.weight"])
    assert not torch.equal(untouched.state_dict()["up.weight"], loaded["up.weight"])


def test_a_network_in_half_precision_holds_rounded_shared_values(tmp_path: Path) -> None:
    layer, coded = linear_layer(5)
    half = layer.half()
    saved(tmp_path / "net", half, Policy(storage={"": Linear(weight_bits=5)}), coded)
    loaded = load(tmp_path / "net", nn.Linear(50, 40, bias=False).half())
    assert torch.equal(loaded.get_parameter("weight"), half.get_parameter("weight"))


def test_what_info_tells_of_each_tensor_adds_up_to_the_file(tmp_path: Path) -> None:
    size = saved(tmp_path / "net", coded_net(), coded_policy(), coded_weights(), norms="folded")
    info = read_info(tmp_path / "net")
    header = 8 + int.from_bytes((tmp_path / "net").read_bytes()[:8], "little")
    assert size == info.size_bytes == header + info.payload_bytes + info.index_bytes
    values = sum(tensor.num_bytes for tensor in info.tensors)
    assert 0 <= info.payload_bytes - values <= 4  # the last word is not full
    by_name = {tensor.name: tensor for tensor in info.tensors}
    assert by_name["up.weight"].codec == "clusters (dtype float32, entries 3, channels 4, axis 1, contexts 0)"
    assert by_name["deep.weight"].codec == "clusters (dtype float16, entries 7, channels 0, axis 0, contexts 9)"
    assert by_name["up.weight"].plain_bytes == 2 * 3 * 4
    assert by_name["last.weight"].codec == "linear (dtype float32, bits 1, axis 0, contexts 0)"
    assert by_name["last.weight"].plain_bytes == 4 * 4


def test_the_estimate_agrees_with_the_file_for_coded_weights_of_some_size() -> None:
    layer, coded = shared_layer(17, 300, 200)
    policy = Policy(storage={"": Clusters(n_clusters=17)})
    real = len(packed_bytes(layer, plan=Plan(), policy=policy, provenance={}, coded=coded))
    widths = bytes_per_element(layer, policy=policy, coded=coded)
    overhead = estimate_overhead(layer, Plan(), policy=policy, provenance={}, coded=coded)
    assert overhead + widths["weight"] * 60_000 == pytest.approx(real, rel=0.005)
    assert widths["weight"] * 60_000 == pytest.approx(coded_bytes(coded["weight"]))
    # the search has no weights at hand when it asks, only the policy
    assert abs(overhead - estimate_overhead(layer, Plan(), policy=policy, provenance={})) <= 8


def replaced(name: str, **changes: Any) -> dict[str, CodedWeights]:
    weights = coded_weights()
    return {**weights, name: dataclasses.replace(weights[name], **changes)}


def without(name: str) -> dict[str, CodedWeights]:
    return {other: weights for other, weights in coded_weights().items() if other != name}


FIRST, HEAD = coded_weights()["first.weight"], coded_weights()["head.weight"]
assert isinstance(FIRST, SharedWeights)
assert isinstance(HEAD, LinearWeights)


@pytest.mark.parametrize(
    ("coded", "message"),
    [
        (without("head.weight"), "stores 'head' as linear, but coded has no 'head.weight'"),
        (without("first.weight") | {"fist.weight": FIRST}, "Did you mean 'first.weight'"),
        (coded_weights() | {"norm.weight": HEAD}, "does not store that layer's weight so"),
        (coded_weights() | {"first.weight": HEAD}, r"coded\['first.weight'\] does not match .*LinearWeights"),
        (replaced("first.weight", indices=FIRST.indices[:2]), r"indices have shape \(2, 3, 3, 3\)"),
        (replaced("first.weight", indices=FIRST.indices + np.uint8(1)), "point beyond the 5 entries"),
        (replaced("first.weight", indices=FIRST.indices.astype(np.int64)), "indices are int64"),
        (replaced("first.weight", codebooks=FIRST.codebooks.astype(np.float32)), "codebooks are float32"),
        (replaced("first.weight", codebooks=FIRST.codebooks[:, ::-1]), "do not ascend"),
        (replaced("first.weight", codebooks=FIRST.codebooks * np.float16("nan")), "not finite"),
        (replaced("first.weight", codebooks=np.zeros((1, 6), np.float16)), r"codebooks have shape \(1, 6\)"),
        (replaced("first.weight", codebooks=np.zeros((2, 5), np.float16)), "2 codebooks for 4 of 4"),
        (replaced("first.weight", axis=2), "no output channels on axis 2"),
        (replaced("head.weight", weight_bits=3), "its weight_bits is 3"),
        (replaced("head.weight", integers=HEAD.integers + np.int8(8)), "beyond -7 to 7"),
        (replaced("head.weight", scales=HEAD.scales[:2]), r"shapes \(5, 11\) and \(2,\)"),
        (replaced("head.weight", scales=HEAD.scales * np.float16("inf")), "not finite"),
        (replaced("last.weight", integers=np.zeros((4, 5), np.int8)), "an integer of 1 bit is 0"),
        (replaced("first.weight", indices=(FIRST.indices + 1) % np.uint8(5)), "does not hold the values"),
    ],
)
def test_coded_weights_that_match_not_policy_and_model_are_refused(
    coded: dict[str, CodedWeights], message: str
) -> None:
    with pytest.raises(PolicyError, match=message):
        packed_bytes(coded_net(), plan=Plan(), policy=coded_policy(), provenance={}, coded=coded)


@pytest.mark.parametrize("form", [Clusters(n_clusters=2), Linear(weight_bits=2)])
def test_a_layer_without_a_weight_cannot_be_coded(form: Storage) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(PolicyError, match="it has no weight"):
        as_stored(model, policy=Policy(storage={"0": form}))


def test_the_bias_of_a_coded_layer_takes_the_width_that_was_asked_for(tmp_path: Path) -> None:
    policy = coded_policy().model_copy(update={"storage": {**coded_policy().storage, "bn": Raw(dtype="fp32")}})
    saved(tmp_path / "net", coded_net(), policy, coded_weights(), dtype="fp16")
    by_name = {tensor.name: tensor.codec for tensor in read_info(tmp_path / "net").tensors}
    assert by_name["head.bias"] == "raw float16"
    assert by_name["bn.bias"] == "raw float32"
