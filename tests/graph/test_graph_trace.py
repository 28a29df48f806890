"""What tracing finds, against structure worked out by hand and PyTorch's own FLOP counter."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tersenet.errors import ModelError, TraceError
from tersenet.graph import ModelGraph, trace
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.testing.toy_joins import OptionAResNet


class Custom(nn.Module):
    """Two convolutions (3 -> 8 -> 5) with a free function in between."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.between(self.first(x)))
        return result


IMAGES = torch.zeros(2, 3, 8, 8)


@functools.cache
def graph_of(name: str) -> ModelGraph:
    return trace(build(name), example_inputs(name))


def positions(graph: ModelGraph, group_id: str, tensor: str, axis: int) -> tuple[tuple[int, ...], ...]:
    found = [m.positions for m in graph.group(group_id).members if (m.tensor, m.axis) == (tensor, axis)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_are_half_of_the_flops_that_pytorch_counts(name: str) -> None:
    model, inputs = build(name), example_inputs(name, batch_size=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    graph = graph_of(name)
    assert graph.not_counted == ()
    assert 2 * graph.macs == counter.get_total_flops()


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_layers_are_those_of_the_module(name: str) -> None:
    model, graph = build(name), graph_of(name)
    assert graph.num_params == sum(parameter.numel() for parameter in model.parameters())
    statistics = sum(b.numel() for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var")))
    assert graph.original_bytes == 4 * (graph.num_params + statistics)
    modules = dict(model.named_modules())
    for layer in graph.layers:
        module = modules[layer.name]
        assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        assert layer.num_params == module.weight.numel() + (0 if module.bias is None else module.bias.numel())
        assert layer.macs % module.weight.numel() == 0


def test_resnet20_with_padded_shortcuts_has_the_published_size() -> None:
    graph = trace(OptionAResNet(blocks=3), torch.zeros(1, 3, 32, 32))
    # shared/data notes and the papers: 40.55 M MACs, 269,722 parameters, 1,084,392 bytes
    assert (graph.macs, graph.num_params, graph.original_bytes) == (40_551_040, 269_722, 1_084_392)


def test_channel_3_of_the_stem_is_channel_11_of_stage_2_and_27_of_stage_3() -> None:
    graph = graph_of("option_a")
    # padding of 8 on both sides from 16 to 32 channels, then of 16 from 32 to 64
    assert positions(graph, "conv1", "layer2.0.conv2.weight", 0)[3] == (11,)
    assert positions(graph, "conv1", "layer2.0.bn2.running_var", 0)[3] == (11,)
    assert positions(graph, "conv1", "layer3.0.conv2.weight", 0)[3] == (27,)
    assert positions(graph, "conv1", "linear.weight", 1)[3] == (27,)
    assert graph.group("conv1").joined_by == ("add",)


def test_channels_that_meet_the_zeros_of_a_padding_are_locked_with_the_reason() -> None:
    graph = graph_of("option_a")
    stage2, stage3 = graph.group("layer2.0.conv2"), graph.group("layer3.0.conv2")
    assert not stage2.prunable
    assert not stage3.prunable
    assert "zeros of a channel padding" in stage2.reason
    own = [channel[0] for channel in positions(graph, "layer2.0.conv2", "layer2.0.conv2.weight", 0)]
    assert own == [*range(8), *range(24, 32)]
    own = [channel[0] for channel in positions(graph, "layer3.0.conv2", "layer3.0.conv2.weight", 0)]
    assert own == [*range(16), *range(48, 64)]


def test_a_channel_before_a_flattening_goes_with_all_its_columns() -> None:
    graph = graph_of("flatten_into_linear")
    columns = positions(graph, "features.2.0", "classifier.0.weight", 1)
    assert columns[3] == tuple(range(48, 64))


def test_concatenation_shifts_the_channels_of_later_parts() -> None:
    graph = graph_of("dense_concat")
    # stem 6 channels, then 4 per layer: the third layer reads 6 + 4 + 4
    assert positions(graph, "convs.1", "norms.2.weight", 0) == ((10,), (11,), (12,), (13,))
    assert positions(graph, "convs.1", "head.weight", 1)[0] == (10,)


def test_a_convolution_with_one_output_is_locked_and_not_taken_for_depthwise() -> None:
    graph = graph_of("one_output")
    assert graph.group("attention").num_channels == 1
    assert not graph.group("attention").prunable
    assert [m.tensor for m in graph.group("stem.0").members if m.role == "consumer"] == [
        "attention.weight",
        "last.weight",
    ]


def test_depthwise_weights_follow_the_channels_they_read() -> None:
    graph = graph_of("depthwise")
    roles = {m.tensor: m.role for m in graph.group("expand.0").members}
    assert roles["depth.0.weight"] == "follower"
    # two outputs per channel
    assert positions(graph, "stem.0", "widen.weight", 0)[3] == (6, 7)
    assert positions(graph, "stem.0", "pointwise.weight", 1)[3] == (6, 7)


def test_groups_of_a_convolution_lose_the_same_channels() -> None:
    graph = graph_of("grouped_conv")
    # 12 inputs and 16 outputs in 4 groups
    assert positions(graph, "reduce.0", "reduce.0.weight", 0) == ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))
    assert positions(graph, "reduce.0", "grouped.0.weight", 1) == ((0,), (1,), (2,))
    assert positions(graph, "grouped.0", "grouped.0.weight", 0)[1] == (1, 5, 9, 13)
    # transposed: 8 inputs and 12 outputs in 2 groups, weight (8, 6, 2, 2)
    assert positions(graph, "stem.0", "up.weight", 0)[2] == (2, 6)
    assert positions(graph, "up", "up.weight", 1)[2] == (2,)
    assert positions(graph, "up", "up.bias", 0)[2] == (2, 8)


def test_a_module_called_twice_is_one_layer_whose_input_and_output_channels_are_the_same() -> None:
    graph = graph_of("shared_module")
    assert [layer.name for layer in graph.layers] == ["stem.0", "block.0", "inner", "head"]
    # 8 x 8 x 3 x 3 weights at 16 x 16 positions, twice
    assert graph.layers[1].macs == 2 * 576 * 256
    assert graph.group("stem.0").producers == ("stem.0", "block.0")
    assert ("block.0", "block.0") in graph.edges


def test_tied_weights_are_one_tensor_under_their_first_name() -> None:
    graph = graph_of("tied_weights")
    names = {tensor.name for tensor in graph.tensors}
    assert "left.weight" in names
    assert "right.weight" not in names
    tensors = [m.tensor for m in graph.group("left").members]
    assert tensors == ["left.weight", "left.bias", "after_left.weight", "right.bias", "after_right.weight"]


def test_parameters_and_buffers_per_channel_follow() -> None:
    members = {(m.tensor, m.axis): m.role for m in graph_of("per_channel_parameters").group("stem.0").members}
    for tensor, axis in (("act.weight", 0), ("scale", 0), ("shift", 1), ("places", 1)):
        assert members[tensor, axis] == "follower"
    assert not any(tensor in ("gain",) for tensor, _ in members)


def test_only_the_scale_of_a_norm_directly_behind_a_layer_is_that_layers_scale() -> None:
    direct = {m.tensor: m.scales for m in graph_of("residual").group("stem.0").members if m.scales}
    assert direct == {"stem.1.weight": "stem.0", "blocks.0.two.1.weight": "blocks.0.two.0"}
    behind_sums = {m.tensor: m.scales for m in graph_of("pre_activation").group("stem").members if m.scales}
    assert behind_sums == {"norms.0.weight": "stem"}


def test_edges_are_the_data_flow_between_layers() -> None:
    assert graph_of("plain").edges == (("conv1", "conv2"), ("conv2", "conv3"), ("conv3", "head"))
    assert ("stem.0", "blocks.1.one.0") in graph_of("residual").edges


def test_the_outputs_are_locked_and_every_group_has_an_id_of_its_own() -> None:
    for name in NETWORKS:
        graph = graph_of(name)
        ids = [group.group_id for group in graph.channel_groups]
        assert len(set(ids)) == len(ids)
        assert all(bool(group.reason) != group.prunable for group in graph.channel_groups)
        for group in graph.channel_groups:
            assert all(len(member.positions) == group.num_channels for member in group.members)
            assert all(len({len(places) for places in member.positions}) == 1 for member in group.members)
        assert "model's outputs" in graph.channel_groups[-1].reason


@pytest.mark.parametrize("name", NETWORKS)
def test_every_output_position_of_every_layer_belongs_to_one_group(name: str) -> None:
    graph = graph_of(name)
    for layer in graph.layers:
        axis = 1 if layer.op == "conv_transpose" else 0
        places = [
            place
            for group in graph.channel_groups
            for member in group.members
            if (member.tensor, member.axis) == (layer.weight, axis)
            for channel in member.positions
            for place in channel
        ]
        shape = next(tensor.shape for tensor in graph.tensors if tensor.name == layer.weight)
        assert sorted(places) == list(range(shape[axis]))


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: x.sort(dim=1)[0], "operator sort is not understood"),
        (lambda x: x.softmax(dim=1), "every channel depends on all others"),
        (lambda x: F.linear(x.flatten(2), torch.ones(64, 64)).view_as(x), "weight is computed in the forward"),
        (lambda x: x[:, torch.arange(8).flip(0)], "picked by their position"),
        (lambda x: x.view(2, 2, 4, 8, 8)[:, :, 0].repeat(1, 4, 1, 1), "all its channels are tied"),
        (lambda x: x - x.mean(dim=1, keepdim=True), "reduced over the channel axis"),
        (lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(8, 8)), "product that is not a convolution"),
        (lambda x: F.group_norm(x, 2), "statistics of group_norm run over channels"),
        (lambda x: F.layer_norm(x, (8, 8, 8)), "statistics of layer_norm run over channels"),
        (lambda x: torch.cat([x[:, 4:], x[:, :4]], dim=1), "picked by their position"),
        (lambda x: torch.cat([part.relu() for part in x.split([3, 5], dim=1)], dim=1), "split at fixed positions"),
        (lambda x: x + torch.arange(8.0).view(1, 8, 1, 1), "meets a value of fixed size"),
        (lambda x: x.reshape(16, 1, 8, 8).reshape(2, 8, 8, 8).roll(1, dims=1), "every channel depends on all others"),
    ],
)
def test_what_is_not_understood_locks_its_channels_with_the_reason(
    between: Callable[[Tensor], Tensor], reason: str
) -> None:
    group = trace(Custom(between), IMAGES).group("first")
    assert not group.prunable
    assert reason in group.reason


def test_a_split_view_that_meets_zeros_in_some_of_its_parts_is_locked_there() -> None:
    def between(x: Tensor) -> Tensor:
        parts = F.pad(x, (0, 0, 0, 0, 2, 2)).view(2, 3, 4, 8, 8)
        return parts.transpose(1, 2).reshape(2, 12, 8, 8)[:, :, :4, :4]

    model = Custom(between)
    model.second = nn.Conv2d(12, 5, 1)
    groups = [g for g in trace(model, IMAGES).channel_groups if g.producers == ("first",)]
    # channel i of 8 is place i + 2 of 3 parts of 4; every place within a part meets a zero somewhere
    assert sum(group.num_channels for group in groups) == 4
    assert not any(group.prunable for group in groups)


def test_operators_that_keep_channels_apart_lock_nothing() -> None:
    def between(x: Tensor) -> Tensor:
        x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0).softmax(dim=3)
        return F.pad(x.permute(0, 2, 3, 1).flip(3).permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect").cumsum(dim=2)

    assert trace(Custom(between), IMAGES).group("first").prunable


def test_arithmetic_outside_of_macs_is_named() -> None:
    graph = trace(Custom(lambda x: (x @ x).softmax(dim=-1)), IMAGES)
    assert graph.not_counted == ("aten.matmul",)


def test_regions_with_a_graph_of_their_own_are_walked() -> None:
    def between(x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.relu()
        with torch.autocast("cpu", enabled=False):
            y = y * 2.0
        return y + x

    assert trace(Custom(between), IMAGES).group("first").prunable


def test_a_weight_computed_in_the_forward_locks_what_it_reads() -> None:
    model = Custom(torch.relu)
    nn.utils.parametrizations.weight_norm(model.second)
    graph = trace(model, IMAGES)
    assert "weight is computed in the forward" in graph.group("first").reason
    assert [layer.name for layer in graph.layers] == ["first"]
    assert len(graph.not_counted) == 1


def test_a_network_without_layers_has_no_groups() -> None:
    graph = trace(nn.Sequential(nn.ReLU(), nn.Flatten()), IMAGES)
    assert (graph.layers, graph.channel_groups, graph.macs) == ((), (), 0)


@pytest.mark.parametrize("training", [True, False])
def test_the_users_model_is_left_as_it_is(training: bool) -> None:
    model = build("plain").train(training)
    model.get_submodule("conv2").eval()
    model.get_parameter("head.weight").requires_grad_(False)
    seen: list[object] = []
    model.get_submodule("conv1").register_forward_hook(lambda module, inputs, output: seen.append(output))
    before = copy.deepcopy(model)
    random_state = torch.get_rng_state()
    trace(model, example_inputs("plain"))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert seen == []
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert all(p.grad is None for p in model.parameters())
    assert len(model.get_submodule("conv1")._forward_hooks) == 1
    for (name, tensor), (other, expected) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(tensor, expected)


def test_half_precision_and_compiled_models_have_the_same_graph() -> None:
    expected = graph_of("residual")
    assert trace(build("residual").half(), example_inputs("residual")) == expected
    compiled = torch.compile(build("residual"), backend="eager")
    assert isinstance(compiled, nn.Module)
    assert trace(compiled, example_inputs("residual")) == expected


def test_costs_do_not_depend_on_the_batch_size_of_the_example() -> None:
    model = build("unet")
    graphs = [trace(model, example_inputs("unet", batch_size=size)) for size in (1, 2, 5)]
    assert graphs[0] == graphs[1] == graphs[2]


def test_data_dependent_control_flow_is_an_error_that_names_the_line() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.conv(x)
            if y.sum() > 0:
                y = -y
            return y

    with pytest.raises(TraceError, match=r"test_graph_trace.py: if y.sum\(\) > 0"):
        trace(Deciding(), IMAGES)


def test_wrong_inputs_are_an_error_in_one_line() -> None:
    with pytest.raises(TraceError, match="cannot be traced") as caught:
        trace(build("plain"), torch.zeros(2, 4, 8, 8))
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="example_inputs must be tensors"):
        trace(build("plain"), ("image",))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="at least one tensor"):
        trace(build("plain"), ())


def test_models_that_cannot_be_used_are_an_error_that_says_why() -> None:
    with pytest.raises(ModelError, match="Give the module inside"):
        trace(nn.DataParallel(build("plain")), IMAGES)
    with pytest.raises(ModelError, match=r"torch\.nn\.Module"):
        trace("resnet20", IMAGES)  # type: ignore[arg-type]
    model = build("plain")
    model.kept = model(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match=r"copy\.deepcopy"):
        trace(model, IMAGES)


def test_layers_are_described_as_they_are_called() -> None:
    layers = {layer.name: layer for layer in graph_of("grouped_conv").layers}
    grouped, up, head = layers["grouped.0"], layers["up"], layers["head"]
    assert (grouped.in_channels, grouped.out_channels, grouped.conv_groups) == (12, 16, 4)
    assert (grouped.kernel_size, grouped.stride, grouped.output_shape) == ((3, 3), (1, 1), (16, 16, 16))
    assert (up.op, up.in_channels, up.out_channels, up.stride, up.output_shape) == (
        "conv_transpose",
        8,
        12,
        (2, 2),
        (12, 32, 32),
    )
    assert (head.op, head.kernel_size, head.stride, head.output_shape) == ("linear", (), (), (5,))
    # a transposed convolution multiplies at its input positions
    assert up.macs == math.prod((8, 6, 2, 2)) * 16 * 16
