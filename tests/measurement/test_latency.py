from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tersenet.export import export_onnx
from tersenet.measurement.latency import compare_latency, measure_latency


def test_runners_take_turns_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []
    runners = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    measured = measure_latency(runners, num_runs=3, warmup=2)
    assert calls == ["a", "b"] * 5
    assert {name: latency.num_runs for name, latency in measured.items()} == {"a": 3, "b": 3}


def test_median_and_quartiles_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    passes = iter([100, 7, 1, 2, 3, 4])  # milliseconds; the first two are warm-up

    def run() -> None:
        nonlocal now
        now += next(passes) * 1_000_000

    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    measured = measure_latency({"net": run}, num_runs=4, warmup=2, runtime="onnxruntime", batch_size=8, num_threads=2)[
        "net"
    ]
    # by hand, with linear interpolation: quartiles of 1, 2, 3, 4
    assert (measured.low_ms, measured.median_ms, measured.high_ms) == (1.75, 2.5, 3.25)
    assert (measured.runtime, measured.batch_size, measured.num_threads) == ("onnxruntime", 8, 2)


def test_a_slower_function_is_measured_as_slower_by_its_time() -> None:
    runners: dict[str, Callable[[], object]] = {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.03)}
    measured = measure_latency(runners, num_runs=11, warmup=1)
    assert measured["short"].median_ms >= 2.0
    assert measured["long"].median_ms >= 30.0
    assert measured["long"].median_ms > 1.5 * measured["short"].median_ms


def test_the_budget_stops_early_but_not_before_five_passes() -> None:
    start = time.perf_counter()
    measured = measure_latency({"net": lambda: time.sleep(0.01)}, num_runs=10_000, warmup=2, seconds_budget=0.1)
    assert time.perf_counter() - start < 2.0
    assert 5 <= measured["net"].num_runs < 100
    hurried = measure_latency({"net": lambda: time.sleep(0.01)}, num_runs=100, warmup=50, seconds_budget=0.0)
    assert hurried["net"].num_runs == 5


def test_an_error_in_a_runner_gives_garbage_collection_back() -> None:
    def fail() -> None:
        raise RuntimeError("broken network")

    with pytest.raises(RuntimeError, match="broken network"):
        measure_latency({"net": fail})
    assert gc.isenabled()


@pytest.mark.parametrize(("runners", "num_runs", "warmup"), [({}, 1, 0), ({"a": int}, 0, 0), ({"a": int}, 1, -1)])
def test_nonsense_is_refused(runners: dict[str, Callable[[], object]], num_runs: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="needs a runner"):
        measure_latency(runners, num_runs=num_runs, warmup=warmup)


class Spy(nn.Module):
    """Notes what its forward sees."""

    seen: ClassVar[list[tuple[tuple[int, ...], bool, bool, bool, int]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        is_last = x.is_contiguous(memory_format=torch.channels_last)
        grad = torch.is_grad_enabled()
        Spy.seen.append((tuple(x.shape), is_last, self.training, grad, torch.get_num_threads()))
        output: Tensor = self.conv(x)
        return output


def test_networks_run_as_for_inference_and_are_left_as_they_were() -> None:
    Spy.seen.clear()
    dense, compressed = Spy().train(), Spy()
    before = copy.deepcopy(dense.state_dict())
    threads = torch.get_num_threads()
    measured = compare_latency(
        dense, compressed, torch.randn(2, 3, 6, 6), batch_sizes=(1, 5), num_threads=2, num_runs=3, seconds_budget=1.0
    )
    assert set(Spy.seen) == {((1, 3, 6, 6), True, False, False, 2), ((5, 3, 6, 6), True, False, False, 2)}
    assert torch.get_num_threads() == threads
    assert dense.training
    assert dense.conv.weight.is_contiguous()
    assert all(torch.equal(values, before[name]) for name, values in dense.state_dict().items())
    assert list(measured) == ["dense", "compressed"]
    for latencies in measured.values():
        assert [(one.runtime, one.batch_size, one.num_threads) for one in latencies] == [
            ("torch", 1, 2),
            ("torch", 5, 2),
        ]


@pytest.mark.slow
def test_a_much_larger_network_is_slower_in_both_runtimes(tmp_path: Path) -> None:
    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3)).eval()

    dense, compressed = net(96), net(8)
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32))
    paths = tmp_path / "dense.onnx", tmp_path / "compressed.onnx"
    for model, path in zip((dense, compressed), paths, strict=True):
        export_onnx(path, model, inputs)
    measured = compare_latency(dense, compressed, inputs, onnx_paths=paths, num_runs=20, seconds_budget=1.0)
    assert [one.runtime for one in measured["dense"]] == ["torch", "onnxruntime"]
    for slow, fast in zip(measured["dense"], measured["compressed"], strict=True):
        assert slow.median_ms > 2 * fast.median_ms  # 130 times the multiplications
        assert fast.low_ms <= fast.median_ms <= fast.high_ms
