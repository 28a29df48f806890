"""Splits, shuffles, gates, windows, and the networks of popular repositories: exact, and counted as PyTorch counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tersenet.graph import ModelGraph, prunable_ratio, trace
from tersenet.testing.invariant import assert_cut_equals_zeroed
from tersenet.testing.networks import randomize
from tersenet.testing.popular import POPULAR, popular
from tersenet.testing.toy_blocks import BLOCKS, Framed
from tersenet.transforms import verify_groups

MAPS = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def check(model: nn.Module, inputs: Tensor) -> ModelGraph:
    graph = trace(model, inputs)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs[:1])
    assert 2 * graph.macs == counter.get_total_flops()
    assert graph.num_params == sum(parameter.numel() for parameter in model.parameters())
    for seed in range(2):
        assert_cut_equals_zeroed(model, inputs, seed=seed, graph=graph)
    return graph


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_exact_and_nothing_is_locked_without_need(name: str) -> None:
    graph = check(randomize(Framed(name), seed=3).eval(), MAPS)
    assert prunable_ratio(graph, "macs") == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", POPULAR)
def test_networks_in_the_style_of_popular_repositories_are_exact(name: str) -> None:
    model, images = popular(name)
    graph = check(model, images)
    assert prunable_ratio(graph, "macs") > 0.99
    assert verify_groups(model, graph, images) == graph


def positions(graph: ModelGraph, group_id: str, tensor: str, axis: int) -> tuple[tuple[int, ...], ...]:
    return next(m.positions for m in graph.group(group_id).members if (m.tensor, m.axis) == (tensor, axis))


def test_the_two_maps_of_split_attention_lose_the_same_channels() -> None:
    graph = trace(Framed("split_attention"), MAPS)
    # two maps of 8 channels side by side, each made by one of the two groups of the convolution
    assert positions(graph, "block.conv", "block.excite.weight", 0)[1] == (1, 9)


def test_neighbours_that_are_compared_go_together() -> None:
    graph = trace(Framed("maxout"), MAPS)
    assert positions(graph, "block.conv", "block.conv.weight", 0)[3] == (6, 7)
    assert positions(graph, "block.conv", "last.weight", 1)[3] == (3,)


def test_a_parameter_per_channel_follows_channels_that_are_also_spread_over_positions() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.scale, self.last = (
                nn.Conv2d(3, 16, 1),
                nn.Parameter(torch.ones(4, 1, 1)),
                nn.Conv2d(4, 5, 1),
            )

        def forward(self, x: Tensor) -> Tensor:
            batch, _, rows, columns = x.shape
            x = self.first(x).view(batch, -1, 2, 2, rows, columns).permute(0, 1, 4, 2, 5, 3)
            x = x.reshape(batch, -1, 2 * rows, 2 * columns) * self.scale
            result: Tensor = self.last(x)
            return result

    graph = check(randomize(Scaled(), seed=0).eval(), MAPS)
    assert positions(graph, "first", "first.weight", 0)[1] == (4, 5, 6, 7)
    assert positions(graph, "first", "scale", 0)[1] == (1,)


def test_a_window_of_a_channel_is_nine_columns() -> None:
    graph = trace(Framed("unfolded"), MAPS)
    assert positions(graph, "stem", "block.mix.weight", 1)[2] == tuple(range(18, 27))
    assert positions(graph, "block.back", "block.back.weight", 0)[2] == (8, 9, 10, 11)


def test_reasons_name_the_line_of_the_forward() -> None:
    graph = trace(Framed("sampled"), MAPS)
    assert "affine_grid_generator in block, toy_blocks.py:" in graph.group("block.places").reason


def test_a_view_shrinks_where_the_forward_leaves_the_size_open() -> None:
    class Viewed(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
            self.sizes = sizes

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = x.view(2, *self.sizes, 6, 6).transpose(1, 2).reshape(2, -1, 6, 6)
            result: Tensor = self.last(x)
            return result

    for sizes, tied in (((2, -1), (0, 4)), ((-1, 2), (0, 1)), ((2, 4), (0, 4))):
        graph = trace(Viewed(*sizes), MAPS)
        assert positions(graph, "first", "first.weight", 0)[0] == tied
