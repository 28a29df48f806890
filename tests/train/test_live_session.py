"""A network that is trained while channels go off and on: exact bookkeeping, exact resume, and health by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.core.plan import Cut, Plan
from tersenet.data import Data
from tersenet.data.arrays import ArraySource
from tersenet.data.splits import TrainSplit
from tersenet.envs import SwitchedKernels
from tersenet.errors import SearchError, StudyError, TrainingError, UnknownNameError
from tersenet.graph import ModelGraph, trace
from tersenet.measurement.placement import Placement
from tersenet.train import TrainConfig
from tersenet.train.live import HealthName, LiveSession
from tersenet.train.slices import gather, inside, positions_of, scatter
from tersenet.train.units import BoolArray
from tersenet.transforms import make_plan, materialize

IMAGES = torch.randn(96, 2, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(3, (96,), generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Two convolutions with norms around a residual sum, dropout, and a linear layer on four pixels a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 5, 3, padding=1)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        x = F.adaptive_max_pool2d(F.relu(self.conv3(x)), 2)
        logits: Tensor = self.linear(self.dropout(x.flatten(1)))
        return logits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return Small()


@pytest.fixture(scope="module")
def graph(model: nn.Module) -> ModelGraph:
    return trace(model, IMAGES[:2])


def session(model: nn.Module, graph: ModelGraph, *, rebuild_share: float = 0.1, **options: object) -> LiveSession:
    source = ArraySource(IMAGES, LABELS, mean=(0.0, 0.0), std=(1.0, 1.0), augment=None)
    config = TrainConfig(
        seed=0, epochs=4, batch_size=16, learning_rate=0.05, weight_decay=1e-2, autocast="off", channels_last="off"
    )
    groups = [group.group_id for group in graph.channel_groups if group.prunable]
    return LiveSession(
        model, graph, TrainSplit(source), config, group_ids=groups, rebuild_share=rebuild_share,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def masks(live: LiveSession, **off: tuple[int, ...]) -> dict[str, BoolArray]:
    found = {group_id: np.ones_like(mask) for group_id, mask in live.active.items()}
    for group_id, channels in off.items():
        found[group_id][list(channels)] = False
    return found


def full(live: LiveSession) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in live.state_dict().items()}


def test_scatter_and_gather_are_exact_inverses_on_every_axis() -> None:
    whole = torch.arange(2.0 * 3 * 4).view(2, 3, 4)
    for positions in ({}, {1: torch.tensor([0, 2])}, {0: torch.tensor([1]), 2: torch.tensor([1, 2, 3])}):
        before = whole.clone()
        part = gather(before, positions)
        index = np.ix_(*(np.asarray(positions.get(axis, torch.arange(size))) for axis, size in enumerate(whole.shape)))
        np.testing.assert_array_equal(part.numpy(), whole.numpy()[index])
        scatter(part, before, positions)
        assert torch.equal(before, whole)
        scatter(-part, before, positions)
        assert torch.equal(gather(before, positions), -part)
        expected = whole.numpy().copy()
        expected[index] *= -1
        np.testing.assert_array_equal(before.numpy(), expected)
    number = torch.tensor(1)
    scatter(torch.tensor(7), number, {})
    assert number == 7


def test_scatter_can_leave_a_part_of_what_is_held_alone() -> None:
    whole = torch.zeros(4, 3)
    held = {0: torch.tensor([0, 1, 3])}
    where = inside(held, {0: torch.tensor([0, 3])}, 2)
    scatter(torch.ones(3, 3), whole, held, where=where)
    assert whole[:, 0].tolist() == [1.0, 0.0, 0.0, 1.0]
    plan = Plan(keeps=((0, 2),), cuts=(Cut(tensor="w", axis=1, keep=0),))
    assert positions_of(plan)["w"][1].tolist() == [0, 2]


def test_gather_is_what_cutting_a_network_does(model: nn.Module, graph: ModelGraph) -> None:
    live = session(model, graph)
    active = masks(live, conv1=(0, 5), conv3=(2,))
    live.set_active(active)
    by_hand = materialize(model, make_plan(model, graph, policy_of(active), seed=0))
    for (name, ours), theirs in zip(live.network().state_dict().items(), by_hand.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def policy_of(active: dict[str, BoolArray]):  # type: ignore[no-untyped-def]
    from tersenet.core.policy import ChannelDecision, Policy

    return Policy(
        channels={
            group_id: ChannelDecision(keep=tuple(np.flatnonzero(mask).tolist()))
            for group_id, mask in active.items()
            if not mask.all()
        }
    )


@pytest.mark.parametrize("rebuild_share", [0.0, 1.0])
def test_what_is_off_keeps_weights_and_momenta_and_goes_on_from_them(
    rebuild_share: float, model: nn.Module, graph: ModelGraph
) -> None:
    live = session(model, graph, rebuild_share=rebuild_share)
    live.train(5)
    before = full(live)
    live.set_active(masks(live, conv1=(1, 4)))
    live.train(5)
    during = full(live)
    for kind in ("weights", "momentum"):
        for name, axis in (("conv1.weight", 0), ("bn1.weight", 0), ("bn2.bias", 0), ("conv3.weight", 1)):
            there, here = before[f"{kind}.{name}"], during[f"{kind}.{name}"]
            off = np.take(here, [1, 4], axis)
            np.testing.assert_array_equal(off, np.take(there, [1, 4], axis), err_msg=name)
            assert not np.array_equal(np.take(here, [0, 2], axis), np.take(there, [0, 2], axis)), name
    np.testing.assert_array_equal(during["weights.bn1.running_var"][[1, 4]], before["weights.bn1.running_var"][[1, 4]])
    live.set_active(masks(live))
    woken = full(live)
    np.testing.assert_array_equal(woken["weights.conv1.weight"], during["weights.conv1.weight"])
    live.train(2)
    assert not np.array_equal(full(live)["weights.conv1.weight"][1], before["weights.conv1.weight"][1])


def test_masked_and_rebuilt_copies_train_alike(graph: ModelGraph) -> None:
    model = Small().double()
    model.dropout.p = 0.0  # it would draw for fewer features
    ends = []
    for share in (0.0, 1.0):
        live = session(model, graph, rebuild_share=share)
        live.train(3)
        live.set_active(masks(live, conv1=(3,), conv3=(0, 2)))
        live.train(4)
        ends.append(full(live))
        assert live.num_builds == (2 if share == 0.0 else 1)
    for name in ends[0]:
        if not name.startswith(("counts", "held")):
            np.testing.assert_allclose(ends[0][name], ends[1][name], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_compact_copy_is_rebuilt_once_a_tenth_of_it_is_off(model: nn.Module, graph: ModelGraph) -> None:
    live = session(model, graph)  # 11 channels, so that one is less than a tenth
    live.set_active(masks(live, conv3=(0,)))
    assert live.num_builds == 1
    assert live.compact.get_parameter("conv3.weight").shape[0] == 5
    assert not live.compact.get_parameter("conv3.weight")[0].any()
    live.set_active(masks(live, conv3=(0, 1)))
    assert live.num_builds == 2
    assert live.compact.get_parameter("conv3.weight").shape[0] == 3
    live.set_active(masks(live, conv3=(1,)))  # whatever is switched on must be there to be trained
    assert live.num_builds == 3


def test_a_saved_session_goes_on_bit_for_bit(model: nn.Module, graph: ModelGraph) -> None:
    live = session(model, graph)
    live.train(4)
    live.set_active(masks(live, conv1=(1, 2)))
    live.train(3)  # into the second epoch of six batches
    live.set_active(masks(live, conv1=(1, 2), conv3=(4,)))  # masked, not rebuilt
    live.record(12.5)
    state = full(live)
    other = session(nn.Sequential(model)[0], graph)
    other.load_state_dict(state)
    for which in (live, other):
        which.train(9)
        which.set_active(masks(which, conv1=(2,), conv3=(4,)))
        which.train(2)
    ends = [full(which) for which in (live, other)]
    assert other.qualities == [12.5]
    for name in ends[0]:
        np.testing.assert_array_equal(ends[0][name], ends[1][name], err_msg=name)
    with pytest.raises(StudyError, match="another network"):
        other.load_state_dict({name: array for name, array in state.items() if name != "weights.linear.bias"})


def test_taylor_health_is_the_loss_gradient_by_a_factor_on_the_channel(graph: ModelGraph) -> None:
    torch.manual_seed(5)
    model = Small()
    model.dropout.p = 0.0
    live = session(model, graph, health_decay=0.0)
    live.train(1)
    batches = live._train.batches(16, shuffle_seed=_first_seed(), augment=True)
    inputs, targets = next(iter(batches))
    factors = torch.ones(5, requires_grad=True)
    model.train()
    hooked = model.conv3.register_forward_hook(lambda module, _, output: F.relu(output) * factors[None, :, None, None])
    F.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
    hooked.remove()
    assert factors.grad is not None
    np.testing.assert_allclose(live.health()["conv3"], factors.grad.abs().numpy(), rtol=1e-4)


def _first_seed() -> int:
    return int(np.random.SeedSequence((0, 0, 0)).generate_state(1)[0])


def test_scale_health_is_filter_norm_times_norm_scale_over_the_mean(graph: ModelGraph) -> None:
    model = Small()
    with torch.no_grad():
        model.conv3.weight.zero_()
        for channel in range(5):
            model.conv3.weight[channel, 0, 0, 0] = channel + 1.0
    found = session(model, graph, health="scale").health()["conv3"]
    np.testing.assert_allclose(found, np.array([1.0, 2.0, 3.0, 4.0, 5.0]) / 3.0)


def test_the_loss_falls_and_a_smaller_copy_gives_what_its_masks_say(
    model: nn.Module, graph: ModelGraph, digits: Data
) -> None:
    live = session(model, graph)
    first = live.train(6)
    live.set_active(masks(live, conv1=(0, 3), conv3=(1,)))
    last = [live.train(6) for _ in range(4)][-1]
    assert last < first
    small = live.network()
    assert small.get_parameter("conv1.weight").shape == (4, 2, 3, 3)
    live.compact.eval()
    with torch.no_grad():
        torch.testing.assert_close(small(IMAGES[:8]), live.compact(IMAGES[:8]))


@pytest.mark.parametrize("health", ["taylor", "scale"])
def test_masks_that_do_not_fit_are_refused(health: HealthName, model: nn.Module, graph: ModelGraph) -> None:
    live = session(model, graph, health=health)
    with pytest.raises(SearchError, match="one mask per group"):
        live.set_active({"conv1": np.ones(6, dtype=np.bool_)})
    with pytest.raises(SearchError, match="every channel of group 'conv3' off"):
        live.set_active(masks(live, conv3=(0, 1, 2, 3, 4)))


def test_training_that_diverges_says_so(model: nn.Module, graph: ModelGraph) -> None:
    source = ArraySource(IMAGES, LABELS, mean=(0.0, 0.0), std=(1.0, 1.0), augment=None)
    config = TrainConfig(seed=0, epochs=4, batch_size=16, learning_rate=1e30, autocast="off")
    live = LiveSession(model, graph, TrainSplit(source), config, group_ids=["conv1"])
    with pytest.raises(TrainingError, match="loss became nan"):
        live.train(8)


def kernel_session(model: nn.Module, graph: ModelGraph, **options: object) -> LiveSession:
    source = ArraySource(IMAGES, LABELS, mean=(0.0, 0.0), std=(1.0, 1.0), augment=None)
    config = TrainConfig(
        seed=0, epochs=4, batch_size=16, learning_rate=0.05, weight_decay=1e-2, autocast="off", channels_last="off"
    )
    layers = ["conv1", "conv2", "conv3"]
    return LiveSession(model, graph, TrainSplit(source), config, kernels_of=layers, **options)  # type: ignore[arg-type]


def test_kernels_that_are_off_keep_weights_and_momenta_and_are_zero_meanwhile(
    model: nn.Module, graph: ModelGraph
) -> None:
    live = kernel_session(model, graph)
    live.train(5)
    before = full(live)
    off = masks(live, conv1=(3, 4), conv3=(0, 7))  # kernels (1, 1) and (2, 0); (0, 0) and (1, 1)
    live.set_active(off)
    assert live.num_builds == 1  # no channel is off, so that nothing can be smaller
    for name, kernels in (("conv1.weight", ((1, 1), (2, 0))), ("conv3.weight", ((0, 0), (1, 1)))):
        zeros = (live.compact.get_parameter(name).flatten(2).abs().sum(dim=2) == 0).nonzero().tolist()
        assert [tuple(place) for place in zeros] == list(kernels)
    live.train(5)
    during = full(live)
    for kind in ("weights", "momentum"):
        here, there = before[f"{kind}.conv1.weight"], during[f"{kind}.conv1.weight"]
        np.testing.assert_array_equal(there[1, 1], here[1, 1])
        np.testing.assert_array_equal(there[2, 0], here[2, 0])
        assert not np.array_equal(there[1, 0], here[1, 0])
    live.set_active(masks(live, conv1=(3,)))
    np.testing.assert_array_equal(
        live.compact.get_parameter("conv1.weight")[2, 0].detach(), before["weights.conv1.weight"][2, 0]
    )
    live.train(1)
    assert not np.array_equal(full(live)["weights.conv1.weight"][2, 0], before["weights.conv1.weight"][2, 0])


def test_a_channel_leaves_the_copy_once_no_kernel_writes_or_reads_it(model: nn.Module, graph: ModelGraph) -> None:
    live = kernel_session(model, graph, rebuild_share=0.0)
    row = tuple(6 * 4 + column for column in range(6))  # filter 4 of conv3, which nothing else writes
    live.set_active(masks(live, conv3=(0, 1, *row)))
    assert live.compact.get_parameter("conv3.weight").shape == (4, 6, 3, 3)
    assert live.compact.get_parameter("linear.weight").shape == (3, 16)
    live.set_active(masks(live, conv1=(0, 1), conv3=row))  # conv2 still writes channel 0 of the sum
    assert live.compact.get_parameter("conv1.weight").shape == (6, 2, 3, 3)
    policy = SwitchedKernels({"conv1": (6, 2, 1, 1), "conv2": (6, 6, 1, 1), "conv3": (5, 6, 1, 1)}).policy(live.active)
    by_hand = materialize(model, make_plan(model, graph, policy, seed=0))
    for (name, ours), theirs in zip(live.network().state_dict().items(), by_hand.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    live.compact.eval()
    with torch.no_grad():
        torch.testing.assert_close(live.network()(IMAGES[:8]), live.compact(IMAGES[:8]))


def test_a_saved_session_of_kernels_goes_on_bit_for_bit(model: nn.Module, graph: ModelGraph) -> None:
    live = kernel_session(model, graph)
    live.train(4)
    live.set_active(masks(live, conv1=(1, 2), conv3=tuple(range(24, 30))))
    live.train(3)
    live.set_active(masks(live, conv1=(1, 2, 5), conv3=tuple(range(23, 30))))  # masked, not rebuilt
    state = full(live)
    other = kernel_session(model, graph)
    other.load_state_dict(state)
    for which in (live, other):
        which.train(9)
        which.set_active(masks(which, conv1=(2,), conv2=(8,)))
        which.train(2)
    ends = [full(which) for which in (live, other)]
    for name in ends[0]:
        np.testing.assert_array_equal(ends[0][name], ends[1][name], err_msg=name)


def test_taylor_health_of_a_kernel_is_the_loss_gradient_by_a_factor_on_it(graph: ModelGraph) -> None:
    torch.manual_seed(5)
    model = Small()
    model.dropout.p = 0.0
    live = kernel_session(model, graph, health_decay=0.0)
    live.train(1)
    inputs, targets = next(iter(live._train.batches(16, shuffle_seed=_first_seed(), augment=True)))
    factors = torch.ones(5, 6, 1, 1, requires_grad=True)
    model.train()
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    parameters["conv3.weight"] = parameters["conv3.weight"].detach() * factors
    F.cross_entropy(torch.func.functional_call(model, parameters, inputs), targets).backward()  # type: ignore[no-untyped-call]
    assert factors.grad is not None
    np.testing.assert_allclose(live.health()["conv3"], factors.grad.abs().flatten().numpy(), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("health", ["taylor", "scale"])
def test_a_kernel_whose_channel_is_off_is_not_healthy(health: HealthName, model: nn.Module, graph: ModelGraph) -> None:
    live = kernel_session(model, graph, health_decay=0.0, health=health)
    live.train(1)
    live.set_active(masks(live, conv1=tuple(range(1, 12)), conv2=tuple(range(1, 36))))  # only channel 0 is written
    live.train(1)
    found = live.health()["conv3"].reshape(5, 6)
    assert (found[:, 0] > 0).all()
    assert not found[:, 1:].any()


def test_scale_health_of_kernels_is_norm_times_norm_scale_over_the_mean(graph: ModelGraph) -> None:
    model = Small()
    with torch.no_grad():
        model.conv1.weight.zero_()
        model.conv1.weight[:, 0, 0, 0] = 2.0
        model.bn1.weight.copy_(torch.arange(6.0))
    found = kernel_session(model, graph, health="scale").health()["conv1"].reshape(6, 2)
    # by hand: 2 times 0 to 5 in one column, zeros in the other, the mean of all twelve is 2.5
    np.testing.assert_allclose(found[:, 0], 2.0 * np.arange(6.0) / 2.5)
    assert not found[:, 1].any()


def test_kernels_of_a_layer_that_is_not_there_are_refused(model: nn.Module, graph: ModelGraph) -> None:
    source = ArraySource(IMAGES, LABELS, mean=(0.0, 0.0), std=(1.0, 1.0), augment=None)
    with pytest.raises(UnknownNameError, match="no layer 'conv9'"):
        LiveSession(model, graph, TrainSplit(source), TrainConfig(seed=0, epochs=1), kernels_of=["conv9"])
    live = kernel_session(model, graph)
    with pytest.raises(SearchError, match="every kernel of layer 'conv1' off"):
        live.set_active(masks(live, conv1=tuple(range(12))))


def test_where_memory_runs_out_the_batch_size_is_named(
    model: nn.Module, graph: ModelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = session(model, graph)
    monkeypatch.setattr(Placement, "forward", lambda *_: torch.empty(10**15))
    with pytest.raises(TrainingError, match=r"not enough memory to train on batches of 16 .*finetune_batch_size=8"):
        live.train(1)
