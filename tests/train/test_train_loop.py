"""Training: what is chosen, what is used, what is left as it was, and exact resume."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.progress import Silent
from tersenet.data.batches import BatchSource
from tersenet.data.splits import SearchSplit, TrainSplit
from tersenet.errors import DataError, ModelError, TrainingError
from tersenet.measurement import Task
from tersenet.train import TrainConfig, fit


def images(num: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes: a bright left or a bright right half."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(num, 1, 6, 6, generator=generator)
    targets = torch.arange(num) % 2
    pictures[targets == 0, :, :, :3] += 1.0
    pictures[targets == 1, :, :, 3:] += 1.0
    return pictures, targets


def source(num: int = 64, *, seed: int = 0, batch_size: int = 16) -> BatchSource:
    pictures, targets = images(num, seed=seed)
    starts = range(0, num, batch_size)
    return BatchSource([(pictures[i : i + batch_size], targets[i : i + batch_size]) for i in starts])


def splits() -> tuple[TrainSplit, SearchSplit]:
    return TrainSplit(source(seed=0)), SearchSplit(source(seed=1))


def network(seed: int = 0, *, classes: int = 2) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(144, classes),
        )


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {"seed": 3, "epochs": 3, "batch_size": 16, "learning_rate": 0.05}
    return TrainConfig(**(base | {"autocast": "off", "channels_last": "off"} | changes))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


class Interrupting(Silent):
    """Presses Ctrl-C when an epoch is reported."""

    def __init__(self, epoch: int) -> None:
        self._epoch = f"{epoch}/"

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        if facts["epoch"].startswith(self._epoch) and "top-1" in facts:
            raise KeyboardInterrupt


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_training_learns_and_the_history_says_so() -> None:
    model = network()
    result = fit(model, *splits(), config(epochs=6))
    assert [point.epoch for point in result.epochs] == [1, 2, 3, 4, 5, 6]
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss
    assert result.best_quality > 80.0
    assert result.best_quality == max(point.quality for point in result.epochs)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    models = [network() for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        fit(model, *splits(), config(seed=seed))
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


@pytest.mark.parametrize("autocast", ["off", "on", "auto"])
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, autocast: str) -> None:
    settings = config(epochs=4, autocast=autocast, distill_weight=0.5, warmup_epochs=0.5, label_smoothing=0.1)
    teacher = network(9)
    path = tmp_path / "fit.pt"
    interrupted = network()
    with pytest.raises(KeyboardInterrupt):
        fit(interrupted, *splits(), settings, teacher=teacher, checkpoint=path, progress=Interrupting(2))
    resumed = network()
    result = fit(resumed, *splits(), settings, teacher=teacher, checkpoint=path)

    # an auto choice is part of the run: repeat it as it was made
    chosen = "on" if result.autocast else "off"
    straight = network()
    expected = fit(straight, *splits(), settings.model_copy(update={"autocast": chosen}), teacher=teacher)
    assert same_weights(resumed, straight)
    assert [p.train_loss for p in result.epochs] == [p.train_loss for p in expected.epochs]
    assert (result.best_epoch, result.best_quality) == (expected.best_epoch, expected.best_quality)


def test_a_finished_training_is_read_back_without_training(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    first, again = network(), network()
    done = fit(first, *splits(), config(), checkpoint=path)
    modified = path.stat().st_mtime_ns
    read = fit(again, *splits(), config(), checkpoint=path)
    assert same_weights(first, again)
    assert read == done
    assert path.stat().st_mtime_ns == modified


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    fit(network(), *splits(), config(epochs=1), checkpoint=path)
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.05, now it is 0\.1"):
        fit(network(), *splits(), config(epochs=1, learning_rate=0.1), checkpoint=path)
    with pytest.raises(TrainingError, match="initial weights"):
        fit(network(1), *splits(), config(epochs=1), checkpoint=path)


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "fit.pt"
    fit(network(), *splits(), config(epochs=1), checkpoint=path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match="Delete it"):
        fit(network(), *splits(), config(epochs=1), checkpoint=path)


def test_the_weights_of_the_best_epoch_stay() -> None:
    scores = iter([1.0, 5.0, 2.0, 3.0])
    weights: list[Tensor] = []

    def metric(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        weights.append(next(model.parameters()).detach().clone())
        return next(scores)

    model = network()
    result = fit(model, *splits(), config(epochs=4), task=Task(metric=metric))
    assert (result.best_epoch, result.best_quality) == (2, 5.0)
    assert [point.quality for point in result.epochs] == [1.0, 5.0, 2.0, 3.0]
    assert torch.equal(next(model.parameters()), weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_what_it_began_with_stays_where_no_epoch_is_as_good() -> None:
    scores = iter([4.0, 1.0, 3.0])
    model = network()
    before = next(model.parameters()).detach().clone()
    task = Task(metric=lambda model, batches: next(scores))
    result = fit(model, *splits(), config(epochs=2), task=task, starts_best=True)
    assert (result.best_epoch, result.best_quality) == (0, 4.0)
    assert torch.equal(next(model.parameters()), before)


def test_the_users_loss_is_what_is_descended() -> None:
    calls: list[tuple[int, ...]] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(tuple(outputs.shape))
        return (outputs[:, 0] - 7.0).square().mean()

    def metric(model: nn.Module, batches: Iterable[tuple[Any, Any]]) -> float:
        return -float(torch.cat([(model(x)[:, 0] - 7.0).square() for x, _ in batches]).mean())

    model = network(classes=1)
    result = fit(model, *splits(), config(epochs=2, learning_rate=1e-3), task=Task(metric=metric, loss=loss))
    assert calls == [(16, 1)] * 8  # 4 batches, 2 epochs; nothing is timed with both switches off
    assert result.epochs[1].quality > result.epochs[0].quality


def test_modes_device_and_gradient_state_are_as_before_and_the_teacher_is_unchanged() -> None:
    model, teacher = network().eval(), network(5).train()
    model[3].train()
    teacher_before = copy.deepcopy(teacher)
    global_state = torch.get_rng_state()
    fit(model, *splits(), config(epochs=1, distill_weight=0.9), teacher=teacher)
    assert [m.training for m in model.modules()] == [False, False, False, False, True, False, False]
    assert all(m.training for m in teacher.modules())
    assert same_weights(teacher, teacher_before)
    assert all(p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), global_state)


def test_full_distillation_follows_the_teacher_and_not_the_labels() -> None:
    train, search = splits()
    pictures, targets = images(64, seed=0)
    opposite = TrainSplit(BatchSource([(pictures, 1 - targets)]))
    teacher, student = network(5), network(6)
    fit(teacher, opposite, SearchSplit(opposite.source), config(epochs=20))
    # the labels alone would teach the student the opposite
    result = fit(student, train, search, config(epochs=1, distill_weight=1.0, learning_rate=0.1), teacher=teacher)
    assert result.best_quality < 30.0


def test_distillation_of_several_outputs_is_off_and_said() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y: Tensor = self.inner(x)
            return y, y

    progress = Noting()
    task = Task(loss=lambda outputs, targets: outputs[0].square().mean(), metric=lambda model, batches: 0.0)
    fit(Two(), *splits(), config(epochs=1, distill_weight=0.5), teacher=Two(), task=task, progress=progress)
    assert len(progress.notes) == 1
    assert "Distillation is off" in progress.notes[0]


def test_a_loss_that_is_not_a_number_stops_with_advice() -> None:
    task = Task(loss=lambda outputs, targets: outputs.sum() * float("nan"))
    with pytest.raises(TrainingError, match=r"became nan in epoch 1 .*Lower learning_rate"):
        fit(network(), *splits(), config(), task=task)


class Hungry(nn.Module):
    """Wants more memory than an address can point to: in a pass forward or backward of training, or in use."""

    def __init__(self, moment: Literal["forward", "backward", "use"]) -> None:
        super().__init__()
        self.inner = network()
        self.moment = moment

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        if self.training == (self.moment == "use"):
            return outputs
        if self.moment == "backward":
            outputs.register_hook(lambda gradient: torch.empty(10**15))  # type: ignore[no-untyped-call]
            return outputs
        return outputs + torch.empty(10**15).sum()


BATCHES_OF_16 = r"batches of 16 \(inputs of shape \(16, 1, 6, 6\)\)\. Lower .*--set finetune_batch_size=8"


@pytest.mark.parametrize("moment", ["forward", "backward"])
@pytest.mark.parametrize("layout", ["off", "auto"])
def test_where_memory_runs_out_the_batch_size_is_named(moment: Literal["forward", "backward"], layout: str) -> None:
    with pytest.raises(TrainingError, match=BATCHES_OF_16):
        fit(Hungry(moment), *splits(), config(channels_last=layout))


@pytest.mark.parametrize("layout", ["off", "auto"])
def test_where_memory_runs_out_in_the_teacher_the_batch_size_is_named(layout: str) -> None:
    with pytest.raises(TrainingError, match=BATCHES_OF_16):
        fit(network(), *splits(), config(channels_last=layout, distill_weight=0.5), teacher=Hungry("use"))


def test_no_epochs_only_measure() -> None:
    model = network()
    before = copy.deepcopy(model)
    result = fit(model, *splits(), config(epochs=0))
    assert (result.epochs, result.best_epoch) == ((), 0)
    assert 0.0 <= result.best_quality <= 100.0
    assert same_weights(model, before)


class NoBatches:
    num_samples = 0

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Any:
        return iter(())


def test_an_empty_training_split_is_refused() -> None:
    with pytest.raises(DataError, match="no batches"):
        fit(network(), TrainSplit(NoBatches()), splits()[1], config())


def test_a_last_batch_of_one_image_does_not_stop_a_network_with_batch_norms() -> None:
    train = TrainSplit(source(33, batch_size=16))
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 2))
    assert len(fit(model, train, splits()[1], config(epochs=1)).epochs) == 1


def test_a_parameter_without_axes_is_trained_and_kept_in_the_checkpoint(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * torch.stack((x[..., :3].sum((1, 2, 3)), x[..., 3:].sum((1, 2, 3))), dim=1)

    first, again = Scaled(), Scaled()
    fit(first, *splits(), config(), checkpoint=tmp_path / "fit.pt")
    fit(again, *splits(), config(), checkpoint=tmp_path / "fit.pt")
    assert float(first.scale.detach()) != 0.5
    assert torch.equal(first.scale, again.scale)
    assert first.scale.grad is None


def test_nothing_to_train_is_refused() -> None:
    model = network().requires_grad_(False)
    with pytest.raises(TrainingError, match="requires_grad"):
        fit(model, *splits(), config())


def test_a_network_that_views_its_activations_is_trained_in_the_usual_layout() -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.linear = nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            y: Tensor = self.linear(x.view(len(x), -1))
            return y

    pictures = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batches = BatchSource([(pictures, torch.arange(16) % 2)])
    result = fit(Viewing(), TrainSplit(batches), SearchSplit(batches), config(channels_last="auto"))
    assert not result.channels_last
    with pytest.raises(ModelError, match="view"):
        fit(Viewing(), TrainSplit(batches), SearchSplit(batches), config(channels_last="on"))


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    linear = nn.Linear(36, 2, bias=False)
    model = nn.Sequential(nn.Flatten(), linear)
    before = linear.weight.detach().clone()
    train = TrainSplit(source(16, batch_size=16))
    plain = config(epochs=1, momentum=0.0, weight_decay=0.0, learning_rate=1.0, grad_clip=1e-3)
    fit(model, train, splits()[1], plain)
    # one step in the middle of the only epoch: half of the highest learning rate, times the clipped norm
    assert float((linear.weight.detach() - before).norm()) == pytest.approx(0.5e-3, rel=1e-3)
