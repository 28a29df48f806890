"""Trials on freshly cut networks, against the same measured by plain torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import Evaluator
from tersenet.data.batches import BatchSource
from tersenet.data.splits import Inputs, SearchSplit, TrainSplit
from tersenet.errors import DataError, PolicyError, SearchError
from tersenet.evaluators import FreshEvaluator
from tersenet.graph import trace
from tersenet.graph.model_graph import ModelGraph
from tersenet.measurement import Task

NUM_TRIAL = 60


class SmallNet(nn.Module):
    """Two convolutions with batch norms; the first one's channels can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def seeded(factory: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory()


def pictures(num: int, *, seed: int) -> Tensor:
    return torch.randn(num, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def net() -> SmallNet:
    """With statistics that fit, so that a cut one has other ones."""
    model: SmallNet = seeded(SmallNet)
    for _ in range(60):
        model(pictures(64, seed=5))
    with torch.no_grad():  # centred, so that all classes occur
        model.linear.bias.sub_(model.eval()(pictures(64, seed=5)).mean(dim=0))
    return model


@pytest.fixture
def graph(net: SmallNet) -> ModelGraph:
    return trace(net, pictures(2, seed=0))


@pytest.fixture
def splits(net: SmallNet) -> tuple[TrainSplit, SearchSplit]:
    """Search labels are what the uncut network says, so that it is right everywhere."""
    train, search = pictures(128, seed=1), pictures(100, seed=2)
    with torch.no_grad():
        labels = net.eval()(search).argmax(dim=1)
    return TrainSplit(BatchSource([(train, torch.zeros(128, dtype=torch.long))])), SearchSplit(
        BatchSource([(search[:50], labels[:50]), (search[50:], labels[50:])])
    )


def half() -> Policy:
    return Policy(channels={"conv1": ChannelDecision(keep=(0, 2, 3, 7, 8, 11))})


def evaluator(net: nn.Module, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], **changes: Any) -> Any:
    settings: dict[str, Any] = {"num_trial_samples": NUM_TRIAL, "seed": 0, "dtype": "fp32"}
    return FreshEvaluator(net, graph, *splits, **(settings | changes))


def by_hand(net: SmallNet, splits: tuple[TrainSplit, SearchSplit]) -> Tensor:
    """Which search samples the cut network gets right, with slices and statistics written out."""
    keep = [0, 2, 3, 7, 8, 11]
    train = torch.cat([x for x, _ in splits[0].source.batches(128) if isinstance(x, Tensor)])
    search = torch.cat([x for x, _ in splits[1].source.batches(128) if isinstance(x, Tensor)])
    labels = torch.cat([y for _, y in splits[1].source.batches(128)])

    def norm(x: Tensor, sample: Tensor, bn: nn.BatchNorm2d, rows: list[int]) -> Tensor:
        mean = sample.mean(dim=(0, 2, 3))[None, :, None, None]
        variance = sample.var(dim=(0, 2, 3))[None, :, None, None]
        scale, shift = bn.weight[rows][None, :, None, None], bn.bias[rows][None, :, None, None]
        return (x - mean) / (variance + bn.eps).sqrt() * scale + shift

    def batch_norm(sample: Tensor, bn: nn.BatchNorm2d, rows: list[int]) -> Tensor:
        out = F.batch_norm(sample, None, None, bn.weight[rows], bn.bias[rows], training=True)
        return F.relu(out)

    with torch.no_grad():
        all_rows = list(range(8))
        raw1 = F.conv2d(train, net.conv1.weight[keep], padding=1)
        raw2 = F.conv2d(batch_norm(raw1, net.bn1, keep), net.conv2.weight[:, keep], padding=1)
        x = F.relu(norm(F.conv2d(search, net.conv1.weight[keep], padding=1), raw1, net.bn1, keep))
        x = F.relu(norm(F.conv2d(x, net.conv2.weight[:, keep], padding=1), raw2, net.bn2, all_rows))
        logits: Tensor = net.linear(x.mean(dim=(2, 3)))
        return logits.argmax(dim=1) == labels


class HalfBlack(BatchSource):
    """Its augmentation blacks out the left half of every picture."""

    def batches(self, batch_size: int, *, augment: bool = False, **range_: Any) -> Iterator[tuple[Inputs, Any]]:
        for inputs, targets in super().batches(batch_size, augment=augment, **range_):
            assert isinstance(inputs, Tensor)
            yield (inputs * (torch.arange(6) > 2) if augment else inputs), targets


def test_statistics_are_measured_on_inputs_distorted_as_in_training(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    distorted = HalfBlack([(pictures(128, seed=1), torch.zeros(128, dtype=torch.long))])
    right, wrong = (
        by_hand(net, (TrainSplit(BatchSource([next(distorted.batches(128, augment=augment))])), splits[1]))
        for augment in (True, False)
    )
    trial = evaluator(net, graph, (TrainSplit(distorted), splits[1])).evaluate(half())
    assert trial.metrics.top1 == pytest.approx(100.0 * float(right[:NUM_TRIAL].float().mean()))
    assert not torch.equal(right, wrong)
    assert trial.metrics.top1 != pytest.approx(100.0 * float(wrong[:NUM_TRIAL].float().mean()))


def test_a_trial_is_cut_recalibrated_and_measured_on_the_first_images(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    right = by_hand(net, splits)
    fresh = evaluator(net, graph, splits)
    trial, confirmed = fresh.evaluate(half()), fresh.confirm(half())
    assert trial.metrics.top1 == pytest.approx(100.0 * float(right[:NUM_TRIAL].float().mean()))
    assert confirmed.metrics.top1 == pytest.approx(100.0 * float(right[NUM_TRIAL:].float().mean()))
    assert (trial.metrics.num_samples, confirmed.metrics.num_samples) == (60, 40)
    assert trial.metrics.split == "search"
    assert trial.metrics.top1 < 100.0  # else nothing was cut
    assert trial.seconds > 0.0


def test_a_policy_that_cuts_nothing_measures_the_network_as_it_came(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    assert evaluator(net, graph, splits).evaluate(Policy()).metrics.top1 == 100.0


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "auto"])
def test_the_same_policy_gives_the_same_result(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], dtype: str
) -> None:
    fresh: Evaluator = evaluator(net, graph, splits, dtype=dtype)
    results = [fresh.evaluate(half()).metrics for _ in range(3)]
    again = evaluator(net, graph, splits, dtype=dtype)
    assert results[0] == results[1] == results[2] == again.evaluate(half()).metrics
    assert fresh.signature == again.signature
    assert {"dtype", "processor", "threads", "batch_size", "torch", "trial_samples"} <= set(fresh.signature)


def test_confirmation_is_fp32_whatever_trials_are(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    exact, rounded = (evaluator(net, graph, splits, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert rounded.signature["dtype"] == "bf16"
    assert exact.confirm(half()).metrics == rounded.confirm(half()).metrics


def test_auto_stays_fp32_where_bfloat16_changes_the_original(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.evaluators.fresh.has_fast_bf16", lambda device: True)
    with torch.no_grad():  # class 0 wins by far everywhere, in any format
        net.linear.bias[0].add_(50.0)
    assert evaluator(net, graph, splits, dtype="auto").signature["dtype"] == "bf16"
    with torch.no_grad():  # back, and a shift of all classes that leaves fp32 its digits, and bfloat16 none
        net.linear.bias[0].sub_(50.0)
        net.linear.bias.add_(1000.0)
    assert evaluator(net, graph, splits, dtype="auto").signature["dtype"] == "float32"


def test_the_given_model_is_not_changed(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    net.train()
    before = copy.deepcopy(net.state_dict())
    evaluator(net, graph, splits).evaluate(half())
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_the_users_metric_measures_in_fp32_and_is_named(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    seen: list[tuple[int, int]] = []

    def width(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        seen.append((sum(len(y) for _, y in batches), sum(p.numel() for p in model.parameters())))
        return float(len(seen))

    task = Task(metric=width, metric_name="width")
    fresh = evaluator(net, graph, splits, task=task, dtype="auto")
    found = fresh.evaluate(half()).metrics
    assert (found.score, found.score_name, found.top1, found.num_samples) == (1.0, "width", None, NUM_TRIAL)
    # by hand: 6 x 27 + 2 x 6, 8 x 54 + 2 x 8, 7 x 8 + 7
    assert seen == [(NUM_TRIAL, 162 + 12 + 432 + 16 + 63)]
    assert fresh.signature["dtype"] == "float32"


def test_outputs_that_are_not_numbers_name_the_policy(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    with torch.no_grad():
        net.bn2.weight[0] = float("nan")
    with pytest.raises(SearchError, match=f"{half().digest()}.*60 of 60"):
        evaluator(net, graph, splits).evaluate(half())


def test_a_policy_for_another_network_stays_a_policy_error(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit]
) -> None:
    wrong = Policy(channels={"conv9": ChannelDecision(pruning_ratio=0.5)})
    with pytest.raises(PolicyError, match="conv9"):
        evaluator(net, graph, splits).evaluate(wrong)


@pytest.mark.parametrize("num_trial_samples", [0, 100])
def test_trials_must_leave_samples_to_confirm(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], num_trial_samples: int
) -> None:
    with pytest.raises(DataError, match="between 1 and 99"):
        evaluator(net, graph, splits, num_trial_samples=num_trial_samples)


def test_a_network_of_several_inputs_that_writes_into_them_is_measured_alike_every_time() -> None:
    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.second = nn.Linear(8, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            a.add_(b)
            logits: Tensor = self.second(F.relu(self.first(a)))
            return logits

    generator = torch.Generator().manual_seed(0)

    def batches() -> BatchSource:
        pairs = [tuple(torch.randn(20, 4, generator=generator) for _ in range(2)) for _ in range(3)]
        return BatchSource([(pair, torch.arange(20) % 3) for pair in pairs])

    model: nn.Module = seeded(Careless)
    traced = trace(model, (torch.zeros(2, 4), torch.zeros(2, 4)))
    source = batches()
    expected = torch.cat([y for _, y in source.batches(20)])
    given = [tuple(t.clone() for t in x) for x, _ in source.batches(20) if isinstance(x, tuple)]
    with torch.no_grad():
        right = torch.cat([model(*pair) for pair in given]).argmax(dim=1) == expected
    fresh = FreshEvaluator(
        model, traced, TrainSplit(batches()), SearchSplit(source), num_trial_samples=30, seed=0, dtype="fp32"
    )
    for _ in range(3):
        assert fresh.evaluate(Policy()).metrics.top1 == pytest.approx(100.0 * float(right[:30].float().mean()))
        assert fresh.confirm(Policy()).metrics.top1 == pytest.approx(100.0 * float(right[30:].float().mean()))


def test_data_that_do_not_fit_into_memory_are_read_anew(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = evaluator(net, graph, splits).evaluate(half()).metrics
    monkeypatch.setattr("tersenet.evaluators.fresh._LIMIT_BYTES", 1000)
    assert evaluator(net, graph, splits).evaluate(half()).metrics == held


def test_a_hopeless_trial_keeps_the_accuracy_on_the_images_it_saw(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.evaluators.racing.MIN_SAMPLES", 20)
    right = by_hand(net, splits)
    fresh = evaluator(net, graph, splits)  # the source has batches of 50
    whole = fresh.evaluate(half(), hopeless_below=0.0)
    assert (whole.stopped_early, whole.metrics) == (False, fresh.evaluate(half()).metrics)
    stopped = fresh.evaluate(half(), hopeless_below=100.01)  # out of reach for every network
    assert stopped.stopped_early
    assert stopped.metrics.num_samples == 50
    assert stopped.metrics.top1 == pytest.approx(100.0 * float(right[:50].float().mean()))


def test_a_users_metric_is_never_stopped(
    net: SmallNet, graph: ModelGraph, splits: tuple[TrainSplit, SearchSplit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.evaluators.racing.MIN_SAMPLES", 1)
    task = Task(metric=lambda model, batches: float(sum(len(y) for _, y in batches)), metric_name="seen")
    found = evaluator(net, graph, splits, task=task).evaluate(half(), hopeless_below=1000.0)
    assert (found.stopped_early, found.metrics.score) == (False, NUM_TRIAL)
