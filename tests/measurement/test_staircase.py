"""Blocks that follow from staircases made by hand, and what is measured to get one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tersenet.core.staircase import Probed, Staircase
from tersenet.errors import SearchError
from tersenet.export.chain import write_chain
from tersenet.graph import trace
from tersenet.measurement import staircase
from tersenet.measurement.staircase import BLOCKS, choose_block, probe_staircase, size_of_pass, typical_layers
from tersenet.models import build


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    """A process measures a kind of convolution once; tests each anew."""
    staircase._probe.cache_clear()


def kind(top: int, milliseconds: Callable[[int], float]) -> Probed:
    counts = [top, top - 1, top - 2, top - 4, top - 8, top - 16]
    return Probed(kernel_size=(3, 3), positions=(8, 8), times_ms={count: milliseconds(count) for count in counts})


def stepped(step: int) -> Callable[[int], float]:
    """Time of a runtime that computes channels in steps, inputs and outputs alike."""
    return lambda count: 0.001 * math.ceil(count / step) ** 2 * step**2


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("top", [32, 64, 256])
def test_the_block_is_the_step_of_the_staircase(step: int, top: int) -> None:
    assert choose_block([kind(top, stepped(step))]) == step


def test_where_only_odd_counts_are_slow_pairs_are_enough() -> None:
    assert choose_block([kind(128, lambda count: count**2 * (2.0 if count % 2 else 1.0))]) == 2


def test_measured_times_of_a_wide_convolution_give_the_width_of_a_vector() -> None:
    # milliseconds of onnxruntime with AVX-512, 3x3 on 28x28
    times = {256: 5.37, 255: 10.5, 254: 10.5, 252: 6.12, 248: 5.73, 240: 4.70}
    assert choose_block([Probed(kernel_size=(3, 3), positions=(28, 28), times_ms=times)]) == 16


def test_noise_of_some_percent_does_not_hide_a_step() -> None:
    wobble = {0: 1.02, 1: 0.98, 2: 1.01, 4: 0.99, 8: 0.985, 16: 1.015}
    kinds = [kind(top, lambda count, top=top: stepped(16)(count) * wobble[top - count]) for top in (64, 128, 256)]  # type: ignore[misc]
    assert choose_block(kinds) == 16


def test_kinds_of_convolutions_are_weighed_together() -> None:
    assert choose_block([kind(64, stepped(8)), kind(64, stepped(8)), kind(64, stepped(16))]) == 8
    assert choose_block([kind(64, stepped(16)), kind(64, stepped(16)), kind(64, stepped(8))]) == 16


def test_without_measurements_nothing_is_rounded() -> None:
    assert choose_block([]) == 1


def test_the_widths_with_most_macs_are_typical() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 40, 3, padding=1, stride=2),
        nn.Conv2d(40, 40, 3, padding=1, groups=40),
        nn.Conv2d(40, 100, 1),
        nn.Conv2d(100, 100, 5, padding=2),
        nn.Conv2d(100, 200, 1, stride=4),
    ).eval()
    found = typical_layers(trace(model, torch.randn(2, 3, 16, 16)))
    # MACs by hand: 0: 110,592; 1: 368,640; 3: 256,000; 4: 16,000,000; 5: 80,000; the depthwise one does not count
    assert [layer.name for layer in found] == ["4", "1", "0"]


def test_passes_are_short_whatever_the_layer() -> None:
    # 3x3 of 64 channels on 56x56 has 36,864 MACs a position, 20 million are 271 positions for two: 16 x 16
    assert size_of_pass((56, 56), 64 * 64 * 9) == ((16, 16), 2)
    # a small one as it is, in a longer chain: 20 million over 589,824
    assert size_of_pass((4, 4), 64 * 64 * 9) == ((4, 4), 16)
    assert size_of_pass((2,), 2048 * 2048) == ((2,), 2)


def test_the_chain_is_convolutions_with_relus(tmp_path: Path) -> None:
    write_chain(tmp_path / "chain.onnx", num_channels=5, kernel_size=(3, 1), positions=(4, 6), length=3)
    weights = [
        torch.from_numpy(onnx.numpy_helper.to_array(w).copy())
        for w in onnx.load(tmp_path / "chain.onnx").graph.initializer
    ]
    session = onnxruntime.InferenceSession(tmp_path / "chain.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(1, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = images
    for weight in weights:
        expected = F.relu(F.conv2d(expected, weight, padding=(1, 0)))
    (found,) = session.run(None, {"input": images.numpy()})
    assert len(weights) == 3
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_probe_finds_the_staircase_of_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    now, num_passes = 0, 0

    def make_runner(path: Path, count: int, *given: object) -> Callable[[], object]:
        def run() -> None:
            nonlocal now, num_passes
            num_passes += 1
            disturbed = num_passes % 3 == 0  # others use the processor meanwhile
            now += round(1e6 * stepped(8)(count)) + 40_000_000 * disturbed

        return run

    monkeypatch.setattr(staircase, "make_runner", make_runner)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    found = probe_staircase(trace(build("digits_cnn").eval(), torch.randn(2, 1, 8, 8)))
    assert found.round_to == 8
    assert found.probed[0].times_ms[32] == pytest.approx(0.001 * 32**2)
    before = num_passes
    assert probe_staircase(trace(build("digits_cnn").eval(), torch.randn(2, 1, 8, 8))) == found
    assert num_passes == before  # the same kinds of convolutions are not measured again


def test_a_real_probe_measures_every_count_and_keeps_to_its_own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staircase, "REPEATS", 1)
    found = probe_staircase(trace(build("digits_cnn").eval(), torch.randn(2, 1, 8, 8)))
    assert found.round_to in BLOCKS
    assert found.round_to == choose_block(found.probed)
    assert [sorted(one.times_ms) for one in found.probed] == [[16, 24, 28, 30, 31, 32], [48, 56, 60, 62, 63, 64]]
    assert all(milliseconds > 0.0 for one in found.probed for milliseconds in one.times_ms.values())
    assert Staircase.model_validate_json(found.model_dump_json()) == found


def test_a_network_without_convolutions_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 10))
    with pytest.raises(SearchError, match=r"round_to='auto'.*Give a number"):
        probe_staircase(trace(model, torch.randn(2, 1, 8, 8)))


def test_the_note_gives_the_block_and_an_example() -> None:
    times = {256: 5.0, 255: 10.0}
    probed = Probed(kernel_size=(3, 3), positions=(28, 28), times_ms=times)
    note = Staircase(round_to=16, runtime="onnxruntime", probed=(probed,)).note
    assert "blocks of 16" in note
    assert "3x3 convolution of 256 channels took 0.50 times as long as one of 255" in note
