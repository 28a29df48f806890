"""What the teacher said before is looked up, changes nothing, and never answers for another batch or network."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.data.arrays import ArraySource
from tersenet.data.augment import Augmentation
from tersenet.data.splits import SearchSplit, TrainSplit
from tersenet.measurement.placement import Placement
from tersenet.train import TrainConfig, fit, teacher
from tersenet.train.teacher import Teacher


class Counting(nn.Module):
    """A network that counts how often it is asked, and stores nothing of it in its state."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer = nn.Linear(2 * 8 * 8, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        outputs: Tensor = self.layer(x.flatten(1))
        return outputs


def splits(num: int = 40) -> tuple[TrainSplit, SearchSplit]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (num, 2, 8, 8), generator=generator, dtype=torch.uint8)
    targets = torch.arange(num) % 3
    source = ArraySource(pixels, targets, mean=(0.5, 0.5), std=(0.2, 0.2), augment=Augmentation(padding=2, flip=True))
    return TrainSplit(source), SearchSplit(source)


def student(seed: int = 5) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, 3))


def config(*, epochs: int = 2, seed: int = 0) -> TrainConfig:
    return TrainConfig(seed=seed, epochs=epochs, batch_size=16, learning_rate=0.01, distill_weight=0.5, autocast="off")


def test_a_second_training_of_the_same_seed_asks_about_no_batch_again_and_ends_the_same(tmp_path: Path) -> None:
    first, second, alone = Counting(), Counting(), Counting()
    fit(student(1), *splits(), config(), teacher=first, checkpoint=tmp_path / "one.pt")
    looked_up, asked = student(2), student(2)
    fit(looked_up, *splits(), config(), teacher=second, checkpoint=tmp_path / "two.pt")
    fit(asked, *splits(), config(), teacher=alone)
    # 40 images in batches of 16: three questions in each of two epochs, besides what settles layout and loss
    assert first.calls - second.calls == 6
    assert first.calls == alone.calls
    for name, tensor in looked_up.state_dict().items():
        assert torch.equal(tensor, asked.state_dict()[name]), name


def test_another_seed_or_network_is_asked_anew(tmp_path: Path) -> None:
    fit(student(), *splits(), config(), teacher=Counting(), checkpoint=tmp_path / "one.pt")
    known, other_seed, other_network = Counting(), Counting(), Counting(seed=9)
    fit(student(), *splits(), config(), teacher=known, checkpoint=tmp_path / "two.pt")
    fit(student(), *splits(), config(seed=1), teacher=other_seed, checkpoint=tmp_path / "three.pt")
    fit(student(), *splits(), config(), teacher=other_network, checkpoint=tmp_path / "four.pt")
    assert other_seed.calls == other_network.calls == known.calls + 6


def test_a_longer_training_asks_only_about_what_is_new(tmp_path: Path) -> None:
    fit(student(), *splits(), config(epochs=2), teacher=Counting(), checkpoint=tmp_path / "one.pt")
    known, longer = Counting(), Counting()
    fit(student(), *splits(), config(epochs=2), teacher=known, checkpoint=tmp_path / "two.pt")
    fit(student(), *splits(), config(epochs=3), teacher=longer, checkpoint=tmp_path / "three.pt")
    assert longer.calls == known.calls + 3


def said(model: nn.Module, folder: Path | None, batches: list[Tensor], *, epoch: int = 1) -> list[Tensor]:
    one = Teacher(model.eval(), Placement(device=torch.device("cpu")), folder=folder, seed=0)
    one.begin(epoch)
    answers = [one.answer(batch) for batch in batches]
    one.end()
    return answers


def images(num: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 2, 8, 8, generator=generator) for size in [4] * num + [2]]


def test_batches_are_known_by_what_they_hold_in_whatever_order_they_come(tmp_path: Path) -> None:
    model, batches = Counting(), images(3)
    expected = said(model, None, batches)
    said(model, tmp_path, batches)
    assert model.calls == 8
    answers = said(model, tmp_path, batches[::-1])
    assert model.calls == 8
    for answer, wanted in zip(answers[::-1], expected, strict=True):
        assert torch.equal(answer, wanted)
    changed = batches[0].clone()
    changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(10.0))
    assert torch.equal(said(model, tmp_path, [changed])[0], model(changed))
    assert model.calls == 10  # once for the changed batch, once here


def test_a_damaged_file_is_written_again(tmp_path: Path) -> None:
    model, batches = Counting(), images(2)
    expected = said(model, tmp_path, batches)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    answers = said(model, tmp_path, batches)
    assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert path.read_bytes() == whole


def test_what_takes_too_much_room_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = Counting(), images(2)
    num_bytes = 10 * 3 * 4  # ten images, three outputs, fp32
    monkeypatch.setattr(teacher, "LIMIT_BYTES", 2 * num_bytes)
    said(model, tmp_path, batches, epoch=2)
    assert len(list(tmp_path.iterdir())) == 1
    said(model, tmp_path, batches, epoch=3)
    assert len(list(tmp_path.iterdir())) == 1


def test_outputs_that_are_not_one_tensor_are_asked_for_every_time(tmp_path: Path) -> None:
    class Two(Counting):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x), x

    model, batches = Two(), images(1)
    said(copy.deepcopy(model), tmp_path, batches)
    said(model, tmp_path, batches)
    assert model.calls == 2
    assert not list(tmp_path.iterdir())
