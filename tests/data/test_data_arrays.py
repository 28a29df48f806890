"""ArraySource and its augmentation: order, ranges, normalisation, distortion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tersenet.data import ArraySource, Augmentation
from tersenet.data.augment import cut_out, random_crop
from tersenet.errors import DataError

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.4, 0.8)


def images_of(num_images: int, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(256, (num_images, 3, size, size), generator=generator).to(torch.uint8)


def source_of(images: torch.Tensor, augment: Augmentation | None = None) -> ArraySource:
    return ArraySource(images, torch.arange(len(images)), mean=MEAN, std=STD, augment=augment)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """The textbook way, in double precision."""
    mean, std = (torch.tensor(v, dtype=torch.float64)[None, :, None, None] for v in (MEAN, STD))
    return ((images.double() / 255 - mean) / std).float()


def targets_of(source: ArraySource, batch_size: int = 4, **options: int | None) -> list[int]:
    return [int(t) for _, targets in source.batches(batch_size, **options) for t in targets]  # type: ignore[arg-type]


def test_bytes_are_divided_by_255_and_normalised_per_colour() -> None:
    images = images_of(5)
    batches = list(source_of(images).batches(2))
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    found = torch.cat([x for x, _ in batches])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, normalised(images))


def test_floating_point_inputs_are_not_divided_by_255() -> None:
    source = ArraySource(torch.full((1, 1, 2, 2), 0.75), torch.zeros(1), mean=(0.25,), std=(0.5,), augment=None)
    x, _ = next(source.batches(1))
    torch.testing.assert_close(x, torch.ones(1, 1, 2, 2))  # (0.75 - 0.25) / 0.5


def test_skip_and_first_select_a_range() -> None:
    source = source_of(images_of(10))
    assert targets_of(source, skip=3, first=5) == [3, 4, 5, 6, 7]
    assert targets_of(source, skip=8) == [8, 9]
    assert targets_of(source, skip=8, first=50) == [8, 9]
    assert targets_of(source, skip=20) == []


def test_shuffling_stays_within_the_range_and_keeps_pairs_together() -> None:
    images = images_of(40)
    pairs = list(source_of(images).batches(7, shuffle_seed=3, skip=10, first=20))
    targets = torch.cat([t for _, t in pairs])
    assert sorted(targets.tolist()) == list(range(10, 30))
    assert targets.tolist() != list(range(10, 30))
    torch.testing.assert_close(torch.cat([x for x, _ in pairs]), normalised(images[targets]))


def test_the_seed_alone_decides_order_and_distortion() -> None:
    source = source_of(images_of(20), Augmentation(padding=2, flip=True))
    state = torch.get_rng_state()
    first, again, other = (
        torch.cat([x for x, _ in source.batches(6, shuffle_seed=seed, augment=True)]) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_tensor_gives_what_the_batches_give() -> None:
    source = source_of(images_of(9))
    inputs, targets = source.tensor(4, 2)
    torch.testing.assert_close(inputs, torch.cat([x for x, _ in source.batches(3, skip=2, first=4)]))
    assert targets.tolist() == [2, 3, 4, 5]


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    images = images_of(30, size=5)
    padded = F.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, crop in zip(padded, random_crop(images, 2, generator=torch.Generator().manual_seed(0)), strict=True):
        places = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image[:, top : top + 5, left : left + 5], crop)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 10
    assert max(top for top, _ in seen) == 4
    assert min(left for _, left in seen) == 0


@pytest.mark.parametrize("side", [1, 3, 4, 20])
def test_cutout_blacks_out_a_square_around_any_pixel_and_nothing_else(side: int) -> None:
    images = torch.randint(1, 256, (400, 3, 5, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    before = images.clone()
    found = cut_out(images, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    gone = found == 0
    assert torch.equal(found[~gone], images[~gone])
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    corners = {(row - side // 2, column - side // 2) for row in range(5) for column in range(7)}
    possible = {
        tuple(top <= row < top + side and left <= column < left + side for row in range(5) for column in range(7))
        for top, left in corners
    }
    assert {tuple(map(bool, mask.flatten())) for mask in gone[:, 0]} == possible


def test_a_source_cuts_out_where_it_is_asked_to() -> None:
    plain, cut = (
        torch.cat([x for x, _ in source_of(images_of(50), augment).batches(8, shuffle_seed=2, augment=True)])
        for augment in (None, Augmentation(padding=0, flip=False, cutout=2))
    )
    changed = (plain != cut).any(dim=1)
    assert 0 < changed.float().mean() <= 4 / 36


def test_the_border_of_a_crop_is_black_before_normalising() -> None:
    white = torch.full((50, 3, 4, 4), 255, dtype=torch.uint8)
    source = source_of(white, Augmentation(padding=1, flip=False))
    x = torch.cat([x for x, _ in source.batches(50, augment=True)])
    black_red, white_red = (0 - 0.5) / 0.2, (1 - 0.5) / 0.2
    torch.testing.assert_close(
        torch.tensor(sorted(set(x[:, 0].flatten().tolist()))), torch.tensor([black_red, white_red])
    )


def test_about_half_of_the_images_are_mirrored() -> None:
    images = images_of(200)
    found = Augmentation(padding=0, flip=True).apply(images, generator=torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a.flip(2), b) for a, b in zip(images, found, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(images, found, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 70 < sum(mirrored) < 130  # 100 expected, standard deviation 7


def test_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="3 inputs have 2 targets"):
        ArraySource(images_of(3), torch.zeros(2), mean=MEAN, std=STD, augment=None)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        source_of(images_of(0))


def test_nan_inputs_are_refused_with_the_first_sample() -> None:
    images = torch.zeros(4, 3, 2, 2)
    images[2, 1, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"1 of 4 inputs hold NaN or infinity \(first at sample 2\)"):
        source_of(images)


def test_a_negative_range_is_refused() -> None:
    with pytest.raises(ValueError, match="skip=-1"):
        targets_of(source_of(images_of(3)), skip=-1)
