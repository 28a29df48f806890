from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_toys import Array, holder, linear, model, norm_constants, norm_node, operators_at_run_time, run, shared

from tersenet.errors import ModelError
from tersenet.export import check_onnx, export_onnx
from tersenet.export.encodings import LinearEncoding, encode_weights
from tersenet.testing.networks import build, example_inputs
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

ONE: dict[str, Array] = {"x": np.ones((), np.float32)}
SHAPE = (7, 5, 3, 3)
"""315 weights: no multiple of the digits in a word."""


def packed_bytes(proto: Any) -> int:
    """Bytes of all constants that are packed digits."""
    return sum(len(one.raw_data) for one in proto.graph.initializer if one.data_type == onnx.TensorProto.UINT8)


def assert_bit_exact_and_folded(weights: CodedWeights, folder: Path, *, largest: int) -> Any:
    """The encoded weight is bit for bit ``values()``, computed at load, in at most ``largest`` packed bytes."""
    proto = holder(weights)
    encode_weights(proto, {"any name": weights})
    np.testing.assert_array_equal(run(proto, ONE)[0], weights.values(), strict=True)
    assert operators_at_run_time(proto, folder) == {"Mul"}  # that with x
    assert 0 < packed_bytes(proto) <= largest
    assert all(not one.float_data and not one.int32_data for one in proto.graph.initializer)
    return proto


# Bytes by hand for 315 indices: words of 8, 5, 3, 8, 2, 13, 1, 1 and 6 digits in 1, 1, 2, 3, 1, 7, 1, 1 and 7 bytes.
@pytest.mark.parametrize(
    ("k", "num_bytes"), [(2, 40), (3, 63), (5, 96), (8, 120), (16, 158), (17, 175), (200, 315), (256, 315), (300, 371)]
)
def test_shared_values_come_out_bit_for_bit(k: int, num_bytes: int, tmp_path: Path) -> None:
    assert_bit_exact_and_folded(shared(SHAPE, k), tmp_path, largest=num_bytes)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("per_codebook", [1, 2, 3, 4])
def test_every_block_of_channels_reads_its_own_codebook(axis: int, per_codebook: int, tmp_path: Path) -> None:
    assert_bit_exact_and_folded(shared(SHAPE, 6, axis=axis, per_codebook=per_codebook), tmp_path, largest=105)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7])
def test_integers_of_up_to_seven_bits_come_out_bit_for_bit(bits: int, tmp_path: Path) -> None:
    weights = linear(SHAPE, bits, axis=bits % 2)
    assert_bit_exact_and_folded(weights, tmp_path, largest=315 * bits // 8 + 7)


def test_ternary_weights_take_less_than_two_bits(tmp_path: Path) -> None:
    assert_bit_exact_and_folded(linear(SHAPE, 2), tmp_path, largest=63)  # five to a byte


def test_integers_of_eight_bits_are_stored_as_they_are(tmp_path: Path) -> None:
    weights = linear(SHAPE, 8, axis=1)
    proto = holder(weights)
    encode_weights(proto, {"weight": weights})
    np.testing.assert_array_equal(run(proto, ONE)[0], weights.values(), strict=True)
    assert operators_at_run_time(proto, tmp_path) == {"Mul"}
    assert [one.raw_data for one in proto.graph.initializer if one.data_type == 3] == [weights.integers.tobytes()]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_types_of_onnx_are_read_by_a_dequantize_node_that_stays(bits: int, tmp_path: Path) -> None:
    weights = linear((7, 5, 3), bits, axis=1)
    proto = holder(weights)
    encode_weights(proto, {"weight": weights}, encoding="dequantize")
    proto.opset_import[0].version, proto.ir_version = 25, 13
    np.testing.assert_array_equal(run(proto, ONE)[0], weights.values(), strict=True)
    assert operators_at_run_time(proto, tmp_path) == {"DequantizeLinear", "Mul"}
    stored_type = onnx.TensorProto.DataType.Value(f"INT{bits}")
    (integers,) = [one for one in proto.graph.initializer if one.data_type == stored_type]
    assert len(integers.raw_data) == -(-105 * bits // 8)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(integers).astype(np.int8), weights.integers)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.5, 0.9, 0.995])
def test_zeros_left_out_come_out_as_zeros_and_take_little(seed: int, share: float, tmp_path: Path) -> None:
    shape = (40, 31, 3, 3)
    zeros = np.random.default_rng(seed).random(shape) < share
    zeros[0, 0, 0, 0] = seed > 0  # a first weight that is there, and one that is not
    weights = shared(shape, 17, zeros=zeros)
    share_of_zeros = float((weights.values() == 0).mean())
    spread = np.array([share_of_zeros, *[(1 - share_of_zeros) / 16] * 16])
    entropy_bytes = -(spread * np.log2(spread)).sum() / 8 * zeros.size
    assert_bit_exact_and_folded(weights, tmp_path, largest=int(1.25 * entropy_bytes + 20))


def test_removed_kernels_take_next_to_nothing(tmp_path: Path) -> None:
    shape = (40, 31, 3, 3)
    zeros = np.broadcast_to((np.random.default_rng(0).random((40, 31)) < 0.75)[:, :, None, None], shape)
    weights = shared(shape, 16, zeros=zeros)
    num_kernels = int((~zeros[:, :, 0, 0]).sum())
    # 4 bits a weight of the kernels that stay, and a step from one to the next of about as many
    assert_bit_exact_and_folded(weights, tmp_path, largest=int(num_kernels * (4.5 + 0.55)))


def test_a_tensor_of_nothing_but_zeros_takes_a_bit_per_weight(tmp_path: Path) -> None:
    weights = shared(SHAPE, 5, zeros=np.ones(SHAPE, bool))
    assert_bit_exact_and_folded(weights, tmp_path, largest=40)


def test_integers_of_eight_bits_that_are_mostly_zero_are_packed(tmp_path: Path) -> None:
    weights = linear((64, 32, 3, 3), 8, share_of_zeros=0.99)
    # 1 % of 18,432 weights: 185 of one byte each, and as many steps of 64 and more, most of them one digit below 256
    assert_bit_exact_and_folded(weights, tmp_path, largest=2 * 185 + 60)


def test_layers_share_pools_and_get_their_own_values_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.export.enc_pools._MOST_DIGITS", 815)
    zeros = np.random.default_rng(0).random((5, 9, 3, 3)) < 0.9
    layers: dict[str, CodedWeights] = {
        "a": shared((7, 5, 3, 3), 16),
        "b": shared((8, 5, 3, 3), 15),
        "c": shared((9, 5, 3, 3), 14),  # a and b fill a pool of 16 values, c begins another
        "d": linear((7, 5), 4),
        "e": shared((5, 9, 3, 3), 16, zeros=zeros),
        "f": shared((5, 9, 3, 3), 15, zeros=zeros[::-1]),
        "g": shared((6, 4), 4, axis=1, per_codebook=2),
    }
    nodes = [onnx.helper.make_node("Mul", ["x", name], [f"y {name}"]) for name in layers]
    constants = {name: weights.values() for name, weights in layers.items()}
    proto = model(nodes, constants, inputs={"x": []}, outputs=[f"y {name}" for name in layers])
    encode_weights(proto, layers)
    for found, weights in zip(run(proto, ONE), layers.values(), strict=True):
        np.testing.assert_array_equal(found, weights.values(), strict=True)
    assert operators_at_run_time(proto, tmp_path) == {"Mul"}
    operators = [node.op_type for node in proto.graph.node]
    assert operators.count("ScatterND") == 1  # e and f
    assert operators.count("Div") == 5  # a with b, c with d, g, the entries of e and f, and the steps between them


def conv_with_norm(operator: str, weights: CodedWeights, *, bias: bool, **attributes: Any) -> Any:
    values = weights.values()
    num_out = values.shape[weights.axis] * (attributes.get("group", 1) if operator == "ConvTranspose" else 1)
    num_in = values.shape[1] * attributes.get("group", 1) if operator == "Conv" else values.shape[1 - weights.axis]
    constants = {"weight": values, **norm_constants(num_out)}
    if bias:
        constants["bias"] = np.linspace(-1, 1, num_out, dtype=np.float32)
    nodes = [
        onnx.helper.make_node(operator, ["x", "weight", *["bias"] * bias], ["between"], **attributes),
        norm_node("between", "y"),
    ]
    shape = ["batch", num_in] if operator == "Gemm" else ["batch", num_in, 6, 6]
    return model(nodes, constants, inputs={"x": shape}, outputs=["y"])


def images(proto: Any, batch_size: int = 3) -> dict[str, Array]:
    sizes = [axis.dim_value for axis in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"x": np.random.default_rng(5).normal(size=(batch_size, *sizes)).astype(np.float32)}


LAYERS: dict[str, tuple[str, CodedWeights, dict[str, Any]]] = {
    "conv": ("Conv", shared((8, 5, 3, 3), 16), {}),
    "strided": ("Conv", linear((8, 5, 3, 3), 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "depthwise": ("Conv", shared((6, 1, 3, 3), 5, per_codebook=2), {"group": 6}),
    "transposed": ("ConvTranspose", shared((5, 8, 3, 3), 5, axis=1, per_codebook=3), {}),
    "transposed, linear": ("ConvTranspose", linear((5, 8, 3, 3), 3, axis=1), {}),
    "linear layer": ("Gemm", linear((9, 14), 6), {"transB": 1}),
    "linear layer the other way": ("Gemm", shared((14, 9), 7, axis=1), {}),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_becomes_one_scale_and_one_shift(name: str, bias: bool, tmp_path: Path) -> None:
    operator, weights, attributes = LAYERS[name]
    proto = conv_with_norm(operator, weights, bias=bias, **attributes)
    feed = images(proto)
    expected = run(proto, feed)[0]
    encode_weights(proto, {"weight": weights})
    np.testing.assert_allclose(run(proto, feed)[0], expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert operators_at_run_time(proto, tmp_path) == {operator}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    num_floats = sum(int(np.prod(one.dims)) for one in proto.graph.initializer if one.data_type in floats)
    table = weights.codebooks.size if isinstance(weights, SharedWeights) else 2**weights.weight_bits - 1
    assert num_floats == table + 2 * expected.shape[1]


def test_a_norm_stays_where_channels_of_the_weight_are_not_those_of_the_output(tmp_path: Path) -> None:
    weights = shared((4, 3, 3, 3), 16, axis=1)
    proto = conv_with_norm("ConvTranspose", weights, bias=True, group=2)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    feed = images(proto)
    expected = run(proto, feed)[0]
    encode_weights(proto, {"weight": weights})
    np.testing.assert_allclose(run(proto, feed)[0], expected, rtol=0, atol=1e-6)
    assert "BatchNormalization" in {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("reader", ["another node", "an output", "a second norm"])
def test_a_norm_stays_where_something_else_reads_the_convolution(reader: str) -> None:
    weights = linear((8, 5, 3, 3), 4)
    proto = conv_with_norm("Conv", weights, bias=False)
    if reader == "an output":
        proto.graph.output.append(onnx.helper.make_tensor_value_info("between", onnx.TensorProto.FLOAT, [None] * 4))
    else:
        node = onnx.helper.make_node("Relu", ["between"], ["z"])
        proto.graph.node.append(node if reader == "another node" else norm_node("between", "z"))
        proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None] * 4))
    feed = images(proto)
    expected = run(proto, feed)
    encode_weights(proto, {"weight": weights})
    for ours, theirs in zip(run(proto, feed), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert "BatchNormalization" in {node.op_type for node in proto.graph.node}
    assert packed_bytes(proto) > 0


@pytest.mark.parametrize("weights", [shared((4, 4, 3, 3), 9), linear((4, 4, 3, 3), 3)], ids=["shared", "linear"])
def test_tied_weights_with_norms_of_their_own_are_stored_once(weights: CodedWeights, tmp_path: Path) -> None:
    # left: norm "a"; right: norm "b"; last: none; and the weight itself is an output
    nodes = [
        onnx.helper.make_node("Conv", ["x", "weight"], ["left"]),
        norm_node("left", "left normed", "a "),
        onnx.helper.make_node("Conv", ["x", "weight"], ["right"]),
        norm_node("right", "right normed", "b "),
        onnx.helper.make_node("Conv", ["x", "weight"], ["last"]),
        onnx.helper.make_node("Identity", ["weight"], ["same"]),
    ]
    constants = {"weight": weights.values(), **norm_constants(4, "a "), **norm_constants(4, "b ")}
    constants["b gamma"] = constants["b gamma"] * 2
    names = ["left normed", "right normed", "last", "same"]
    proto = model(nodes, constants, inputs={"x": ["batch", 4, 6, 6]}, outputs=names)
    feed = images(proto)
    expected = run(proto, feed)
    encode_weights(proto, {"weight": weights})
    for ours, theirs in zip(run(proto, feed), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    assert packed_bytes(proto) <= 66  # 144 weights, once
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}


def test_a_weight_that_an_inner_graph_reads_keeps_its_name() -> None:
    weights = shared((4, 4), 5)
    branches = {
        f"{name}_branch": onnx.helper.make_graph(
            [onnx.helper.make_node(operator, ["weight"], [name])],
            name,
            [],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)],
        )
        for name, operator in (("then", "Identity"), ("else", "Neg"))
    }
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["condition"], to=onnx.TensorProto.BOOL),
        onnx.helper.make_node("If", ["condition"], ["y"], **branches),
    ]
    proto = model(nodes, {"weight": weights.values()}, inputs={"x": []}, outputs=["y"])
    encode_weights(proto, {"weight": weights})
    assert packed_bytes(proto) > 0
    np.testing.assert_array_equal(run(proto, ONE)[0], weights.values())
    np.testing.assert_array_equal(run(proto, {"x": np.zeros((), np.float32)})[0], -weights.values())


def test_what_is_not_coded_stays_as_it_is() -> None:
    weights, other = shared(SHAPE, 16), shared(SHAPE, 4)
    proto = holder(weights)
    before = proto.SerializeToString(deterministic=True)
    encode_weights(proto, {"weight": other})
    assert proto.SerializeToString(deterministic=True) == before


def coded_network(name: str, form: str) -> tuple[torch.nn.Module, dict[str, CodedWeights]]:
    """A toy network whose weights of two and more axes are coded, tied ones under both of their names."""
    network = build(name)
    coded: dict[str, CodedWeights] = {}
    by_tensor: dict[int, CodedWeights] = {}
    for layer, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Linear):
            axis = 1 if isinstance(module, torch.nn.ConvTranspose2d) else 0
            shape = tuple(module.weight.shape)
            if id(module.weight) not in by_tensor:
                bits = int(form.rpartition(" ")[2])
                made = linear(shape, bits, axis=axis) if "bits" in form else shared(shape, bits, axis=axis)
                by_tensor[id(module.weight)] = made
                with torch.no_grad():
                    module.weight.copy_(torch.from_numpy(made.values()))
            coded[f"{layer}.weight"] = by_tensor[id(module.weight)]
    return network, coded


@pytest.mark.slow
def test_a_network_is_exported_with_codes_and_computes_the_same(tmp_path: Path) -> None:
    network, coded = coded_network("tied_weights", "k 16")
    inputs = example_inputs("tied_weights")
    size = export_onnx(tmp_path / "net.onnx", network, inputs, coded=coded)
    proto = onnx.load(str(tmp_path / "net.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.opset_import[0].version, proto.ir_version) == (20, 10)
    assert size == len(proto.SerializeToString(deterministic=True))
    assert check_onnx(tmp_path / "net.onnx", network, [inputs], num_threads=1).max_relative_difference < 1e-6
    # by hand: 8 * 27 weights that are tied, two times 6 * 8, and 5 * 12, in half a byte each
    assert packed_bytes(proto) == (216 + 48 + 48 + 60) // 2
    assert operators_at_run_time(proto, tmp_path).isdisjoint({"Gather", "Div", "Mod", "Cast"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "encoding", "versions"),
    [
        ("k 5", "folded", (20, 10)),
        ("bits 3", "folded", (20, 10)),
        ("bits 8", "dequantize", (20, 10)),
        ("bits 4", "dequantize", (21, 10)),
        ("bits 2", "dequantize", (25, 13)),
    ],
)
@pytest.mark.parametrize("name", ["plain", "token_decoder", "depthwise", "mlp", "shared_module"])
def test_networks_of_all_kinds_compute_the_same(
    name: str, form: str, encoding: LinearEncoding, versions: tuple[int, int], tmp_path: Path
) -> None:
    network, coded = coded_network(name, form)
    inputs = example_inputs(name)
    export_onnx(tmp_path / "net.onnx", network, inputs, coded=coded, encoding=encoding)
    proto = onnx.load(str(tmp_path / "net.onnx"))
    onnx.checker.check_model(proto, full_check=True)
    assert (proto.opset_import[0].version, proto.ir_version) == versions
    assert not {one.name for one in proto.graph.initializer} & coded.keys()
    assert check_onnx(tmp_path / "net.onnx", network, [inputs], num_threads=1).max_relative_difference < 1e-5
    left = operators_at_run_time(proto, tmp_path) & {"Gather", "GatherElements", "Div", "Mod", "DequantizeLinear"}
    assert left == ({"DequantizeLinear"} if encoding == "dequantize" else set())


class OverTokens(torch.nn.Module):
    """A linear layer over three axes, whose weight the exporter turns around."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(12, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x)
        return result


@pytest.mark.slow
def test_a_weight_that_the_exporter_turns_around_is_coded_too(tmp_path: Path) -> None:
    network, weights = OverTokens().eval(), shared((20, 12), 16)
    with torch.no_grad():
        network.linear.weight.copy_(torch.from_numpy(weights.values()))
    inputs = torch.linspace(-1, 1, 2 * 3 * 12).reshape(2, 3, 12)
    export_onnx(tmp_path / "net.onnx", network, inputs, coded={"linear.weight": weights})
    proto = onnx.load(str(tmp_path / "net.onnx"))
    assert packed_bytes(proto) == 20 * 12 // 2
    assert sum(len(one.raw_data) for one in proto.graph.initializer) < 400
    assert check_onnx(tmp_path / "net.onnx", network, [inputs]).max_relative_difference < 1e-6


@pytest.mark.parametrize("form", [SharedWeights, LinearWeights])
def test_codes_of_another_network_are_refused(form: type, tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 4)
    weights: CodedWeights = shared((4, 3), 2) if form is SharedWeights else linear((4, 3), 2)
    with pytest.raises(ModelError, match=r"'weight' does not hold coded\['weight'\].values\(\)"):
        export_onnx(tmp_path / "net.onnx", layer, torch.ones(2, 3), coded={"weight": weights})
    with pytest.raises(ModelError, match="coded names 'heavy', but the network has no such tensor"):
        export_onnx(tmp_path / "net.onnx", layer, torch.ones(2, 3), coded={"heavy": weights})
    assert list(tmp_path.iterdir()) == []
