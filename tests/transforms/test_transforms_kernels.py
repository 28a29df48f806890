"""Pruning inside kernels: the right units go, cropped and zeroed networks agree, idle channels are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.core.mask import Mask
from tersenet.core.policy import ChannelDecision, KernelDecision, KernelUnit, Linear, Policy
from tersenet.criteria import Learned
from tersenet.errors import PolicyError, UnknownNameError
from tersenet.graph import trace
from tersenet.testing.networks import build, example_inputs
from tersenet.transforms import check_cut, make_plan, materialize, simulate, unit_shape

UNITS: tuple[KernelUnit, ...] = ("kernel", "position", "filter_position", "element")


def outputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(images)
    return found


def weight_of(model: nn.Module) -> Tensor:
    return model.get_parameter("0.weight")


def geometry(model: nn.Module) -> tuple[object, object]:
    first = model.get_submodule("0")
    return first.kernel_size, first.padding


def only(layer: str, decision: KernelDecision) -> Policy:
    return Policy(kernels={layer: decision})


def positions(*rows: str) -> Mask:
    """A mask of positions drawn with x and dots."""
    return Mask.of(np.array([[[[c == "x" for c in row] for row in rows]]]))


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("kernel", (8, 4, 1, 1)),
        ("position", (1, 1, 3, 5)),
        ("filter_position", (8, 1, 3, 5)),
        ("element", (8, 4, 3, 5)),
    ],
)
def test_units_broadcast_against_the_weight(unit: KernelUnit, expected: tuple[int, ...]) -> None:
    assert unit_shape((8, 4, 3, 5), unit) == expected


def test_a_mask_survives_json_and_refuses_bits_of_another_shape() -> None:
    stays = np.random.default_rng(0).random((5, 7, 1, 1)) < 0.3
    mask = Mask.model_validate_json(Mask.of(stays).model_dump_json())
    np.testing.assert_array_equal(mask.array(), stays)
    with pytest.raises(ValueError, match="needs 9 bytes"):
        Mask(shape=(9, 8), bits=mask.bits)
    with pytest.raises(ValueError, match="cannot be read"):
        Mask(shape=(5, 7), bits="not base 64")


def test_the_kernels_with_the_smallest_weights_go() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1))
    sizes = torch.tensor([[3.0, 1.0], [2.0, 4.0]])
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(sizes[:, :, None, None].expand(2, 2, 3, 3))
    images = torch.randn(1, 2, 6, 6)
    plan = make_plan(model, trace(model, images), only("0", KernelDecision(unit="kernel", keep_ratio=0.5)), seed=0)
    small = materialize(model, plan)
    kept = small.get_parameter("0.weight")[:, :, 1, 1]
    torch.testing.assert_close(kept, torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    assert model.get_parameter("0.weight").count_nonzero() == 36  # the given model is left as it was


def test_a_threshold_keeps_what_reaches_it_and_always_the_best() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[0.1, -0.5, 0.3], [0.2, 0.3, -0.4]]))
    graph = trace(model, torch.randn(1, 3))
    for threshold, expected in ((0.3, 4), (9.0, 1)):
        policy = only("0", KernelDecision(unit="element", threshold=threshold))
        assert int(weight_of(materialize(model, make_plan(model, graph, policy, seed=0))).count_nonzero()) == expected


def test_units_are_chosen_among_the_channels_that_stay() -> None:
    model = build("plain")
    graph = trace(model, example_inputs("plain"))
    group = next(g for g in graph.channel_groups if g.prunable)
    consumer = next(m for m in group.members if m.role == "consumer")
    half = tuple(range(group.num_channels // 2))
    policy = Policy(
        channels={group.group_id: ChannelDecision(keep=half)},
        kernels={consumer.layer: KernelDecision(unit="kernel", keep_ratio=0.5, criterion="random")},
    )
    weight = materialize(model, make_plan(model, graph, policy, seed=0)).get_parameter(consumer.tensor)
    on = weight.flatten(2).abs().sum(dim=2) > 0
    assert int(on.sum()) == -(-weight.shape[0] * weight.shape[1] // 2)


@pytest.mark.parametrize(
    ("rows", "kernel_size", "padding"),
    [
        (("...", "xxx", "..."), (1, 3), (0, 1)),
        ((".x.", ".x.", ".x."), (3, 1), (1, 0)),
        (("...", ".x.", "..."), (1, 1), (0, 0)),
        (("...", "xxx", "xxx"), (3, 3), (1, 1)),  # at one end only: padding is the same at both
        (("xxx", "...", "xxx"), (3, 3), (1, 1)),
    ],
)
@pytest.mark.parametrize("stride", [1, 2])
def test_rows_and_columns_that_are_off_are_cropped_exactly(
    rows: tuple[str, ...], kernel_size: tuple[int, int], padding: tuple[int, int], stride: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    images = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    graph = trace(model, images)
    policy = only("0", KernelDecision(unit="position", mask=positions(*rows)))
    plan = make_plan(model, graph, policy, seed=0)
    small = materialize(model, plan)
    assert geometry(small) == (kernel_size, padding)
    assert tuple(weight_of(small).shape[2:]) == kernel_size
    zeroed = simulate(model, graph, plan)
    by_hand = weight_of(model) * torch.from_numpy(positions(*rows).array())
    torch.testing.assert_close(weight_of(zeroed), by_hand)
    torch.testing.assert_close(outputs(small, images), outputs(zeroed, images), rtol=1e-12, atol=1e-12)
    assert (outputs(small, images) - outputs(model, images)).abs().max() > 1e-3
    macs = trace(small, images).layers[0].macs
    assert macs == graph.layers[0].macs * kernel_size[0] * kernel_size[1] // 9


def test_crops_take_dilation_and_missing_padding_into_account() -> None:
    torch.manual_seed(0)
    cross = positions(".....", ".....", "..x..", ".....", ".....")
    for dilation, padding, expected in ((2, 4, (1, 1)), (2, 3, (3, 3)), (1, 0, (5, 5))):
        conv = nn.Conv2d(2, 4, 5, padding=padding, dilation=dilation)
        model = nn.Sequential(conv, nn.Conv2d(4, 2, 1)).double()
        images = torch.randn(1, 2, 12, 12, dtype=torch.float64)
        graph = trace(model, images)
        plan = make_plan(model, graph, only("0", KernelDecision(unit="position", mask=cross)), seed=0)
        assert geometry(materialize(model, plan))[0] == expected
        assert check_cut(model, graph, plan, images) < 1e-12


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "name",
    ["grouped_conv", *(pytest.param(n, marks=pytest.mark.slow) for n in ("plain", "depthwise", "residual", "mlp"))],
)
def test_cut_and_zeroed_networks_agree(name: str, unit: KernelUnit) -> None:
    model, inputs = build(name).double(), example_inputs(name)
    graph = trace(model, inputs)
    channels = {g.group_id: ChannelDecision(pruning_ratio=0.3) for g in graph.channel_groups if g.prunable}
    decision = KernelDecision(unit=unit, keep_ratio=0.4, criterion="random")
    policy = Policy(channels=channels, kernels={layer.name: decision for layer in graph.layers[:-1]})
    assert check_cut(model, graph, make_plan(model, graph, policy, seed=1), inputs) < 1e-9


def test_channels_that_nothing_reads_are_cut_without_a_trace_in_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    graph = trace(model, images)
    reads = np.ones((2, 4, 1, 1), dtype=np.bool_)
    reads[:, 2] = False
    policy = only("3", KernelDecision(unit="kernel", mask=Mask.of(reads)))
    plan = make_plan(model, graph, policy, seed=0)
    assert plan.kept_channels == {"0": (0, 1, 3)}
    with torch.no_grad():
        model.get_parameter("3.weight")[:, 2] = 0.0
    torch.testing.assert_close(outputs(materialize(model, plan), images), outputs(model, images))


def test_channels_that_nothing_writes_are_cut_and_one_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    graph = trace(model, torch.randn(1, 3, 5, 5))
    for writes, expected in (((0, 3), (0, 3)), ((), (0,))):
        mask = np.zeros((4, 3, 1, 1), dtype=np.bool_)
        mask[list(writes)] = True
        plan = make_plan(model, graph, only("0", KernelDecision(unit="kernel", mask=Mask.of(mask))), seed=0)
        assert plan.kept_channels["0"] == expected


def test_learned_scores_decide_and_their_absence_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1))
    graph = trace(model, torch.randn(1, 2, 6, 6))
    policy = only("0", KernelDecision(unit="kernel", keep_ratio=0.25, criterion="information_dropout"))
    learned = Learned(units={"0": torch.tensor([[0.0, 0.1], [3.0, 0.2]])[:, :, None, None]})
    plan = make_plan(model, graph, policy, seed=0, learned=learned)
    assert plan.masks["0.weight"].array()[:, :, 0, 0].tolist() == [[False, False], [True, False]]
    assert plan.kept_channels == {"0": (1,)}
    with pytest.raises(PolicyError, match="zhan2019"):
        make_plan(model, graph, policy, seed=0)
    other = only("0", KernelDecision(unit="element", keep_ratio=0.25, criterion="variational_dropout"))
    with pytest.raises(PolicyError, match="Decide the units that were learned"):
        make_plan(model, graph, other, seed=0, learned=learned)


def test_channels_follow_what_was_learned_of_them() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1))
    graph = trace(model, torch.randn(1, 2, 6, 6))
    policy = Policy(channels={"0": ChannelDecision(pruning_ratio=0.5, criterion="information_dropout")})
    learned = Learned(channels={"0": torch.tensor([0.5, 2.0, 1.0])})
    assert make_plan(model, graph, policy, seed=0, learned=learned).kept_channels == {"0": (1, 2)}


def test_bad_decisions_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 1))
    graph = trace(model, torch.randn(1, 2, 6, 6))
    with pytest.raises(PolicyError, match=r"policy\.kernels: No layer"):
        make_plan(model, graph, only("7", KernelDecision(unit="kernel", keep_ratio=0.5)), seed=0)
    with pytest.raises(UnknownNameError):
        make_plan(model, graph, only("0", KernelDecision(unit="kernel", keep_ratio=0.5, criterion="nope")), seed=0)
    too_large = KernelDecision(unit="position", mask=Mask.of(np.ones((1, 1, 5, 5), dtype=np.bool_)))
    with pytest.raises(PolicyError, match="mask of '0' has shape"):
        make_plan(model, graph, only("0", too_large), seed=0)
    with pytest.raises(ValueError, match="exactly one"):
        KernelDecision(unit="kernel")
    with pytest.raises(ValueError, match="1 bit has no zero"):
        Policy(
            kernels={"0": KernelDecision(unit="kernel", keep_ratio=0.5)},
            storage={"0": Linear(weight_bits=1)},
        )


def test_policies_without_kernels_keep_their_hash() -> None:
    # computed before kernels were part of a policy
    policy = Policy(channels={"conv1": ChannelDecision(pruning_ratio=0.5)})
    assert policy.digest() == "f1cb84cd0b6d1c51"
