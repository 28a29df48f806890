"""A realistic run: ResNet-20 on CIFAR-10, 200 trials, controls, fine-tuning, two runtimes."""

from __future__ import annotations

import functools

import numpy as np

from tersenet.core.metrics import Latency, Metrics
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.summary import (
    Check,
    Confirmed,
    EpochPoint,
    FlowNode,
    GroupRow,
    Int8File,
    LayerRow,
    McNemar,
    RunSummary,
    StorageKind,
    StorageRow,
    TrialPoint,
)
from tersenet.core.target import Target
from tersenet.report import render_html


def _latency(runtime: str, batch_size: int, median_ms: float) -> Latency:
    return Latency(
        runtime=runtime,
        batch_size=batch_size,
        median_ms=median_ms,
        low_ms=0.96 * median_ms,
        high_ms=1.07 * median_ms,
        num_runs=50,
        num_threads=1,
    )


def _layers() -> tuple[tuple[LayerRow, ...], tuple[GroupRow, ...]]:
    random = np.random.default_rng(1)
    layers = [_layer("conv1", (16, 3, 3, 3), (16, 3, 3, 3), 1024, "conv1")]
    groups = [
        GroupRow(
            group_id="conv1",
            num_channels=16,
            num_kept=16,
            producers=("conv1",),
            prunable=False,
            reason="meets the zeros that a shortcut pads, at a width fixed in the forward",
        ),
    ]
    for stage, width in enumerate((16, 32, 64), start=1):
        pixels = (32 >> (stage - 1)) ** 2
        for block in range(3):
            name = f"layer{stage}.{block}"
            kept = int(width * random.uniform(0.2, 0.9))
            before = width // 2 if block == 0 and stage > 1 else width
            groups.append(
                GroupRow(
                    group_id=f"{name}.conv1",
                    num_channels=width,
                    num_kept=kept,
                    producers=(f"{name}.conv1",),
                    prunable=True,
                    reason="",
                ),
            )
            layers.append(_layer(f"{name}.conv1", (width, before, 3, 3), (kept, before, 3, 3), pixels, f"{name}.conv1"))
            layers.append(_layer(f"{name}.conv2", (width, width, 3, 3), (width, kept, 3, 3), pixels, "conv1"))
    layers.append(_layer("linear", (10, 64), (10, 64), 1, ""))
    return tuple(layers), tuple(groups)


def _layer(name: str, before: tuple[int, ...], after: tuple[int, ...], pixels: int, group_id: str) -> LayerRow:
    return LayerRow(
        name=name,
        op="conv" if len(before) == 4 else "linear",
        shape_before=before,
        shape_after=after,
        macs_before=int(np.prod(before)) * pixels,
        macs_after=int(np.prod(after)) * pixels,
        params_before=int(np.prod(before)),
        params_after=int(np.prod(after)),
        group_id=group_id,
    )


def _flow(layers: tuple[LayerRow, ...]) -> tuple[FlowNode, ...]:
    """Input and stem, blocks of two layers and a sum, the last layer."""
    nodes = [FlowNode(kind="input", name="input", reads=())]
    for layer in layers:
        nodes.append(FlowNode(kind="layer", name=layer.name, reads=(len(nodes) - 1,)))
        if layer.name.endswith("conv2"):
            here = len(nodes)
            nodes.append(FlowNode(kind="join", name="add", reads=(here - 3, here - 1)))
    return tuple(nodes)


def _storage(layers: tuple[LayerRow, ...]) -> tuple[StorageRow, ...]:
    """Clusters, integers and plain numbers in turn; 2,816 bytes of norms and 1,310 that describe the file."""
    forms: list[tuple[StorageKind, str, float]] = [("clusters", "23 clusters", 4.4), ("linear", "3 bits", 2.9)]
    forms.append(("raw", "fp16", 16.0))
    rows = []
    for number, layer in enumerate(layers):
        kind, form, bits = forms[number % 3]
        size = layer.params_after * bits / 8
        row = StorageRow(name=layer.name, kind=kind, form=form, bytes_before=4 * layer.params_before, bytes_after=size)
        rows.append(row)
    rows.append(StorageRow(name="norms, other values", kind="rest", form="", bytes_before=11008, bytes_after=2816.0))
    rows.append(StorageRow(name="index, header", kind="rest", form="", bytes_before=0, bytes_after=1310.0))
    return tuple(rows)


def int8_file(**changes: object) -> Int8File:
    """Measured on 5,000 search images: 1.1 ms dense, 0.7 ms compressed, 0.5 ms in int8."""
    found = Int8File(
        size_bytes=161200,
        fp32_size_bytes=612034,
        dense_size_bytes=1088412,
        num_int8_layers=20,
        fp32_layers=(),
        calibration_samples=256,
        num_samples=5000,
        agreement=99.42,
        top1=96.3,
        torch_top1=96.44,
        max_relative_difference=0.031,
        dense_latency=_latency("onnxruntime", 1, 1.1),
        fp32_latency=_latency("onnxruntime", 1, 0.7),
        latency=_latency("onnxruntime", 1, 0.5),
        dense_cpu_ms=1.08,
        fp32_cpu_ms=0.72,
        cpu_ms=0.48,
    )
    return found.model_copy(update=changes)


def _trials() -> tuple[TrialPoint, ...]:
    random = np.random.default_rng(0)
    points = []
    for method, number in (("he2018", 200), ("uniform", 1), ("cem", 120)):
        for index in range(number):
            warm = method == "he2018" and index < 60
            skill = 0.0 if warm else min(1.0, max(0, index - 50) / 110)
            quality = 51.5 if method == "uniform" else float(38 + 24 * skill + random.normal(0, 7 - 4 * skill))
            points.append(
                TrialPoint(
                    index=index,
                    method=method,
                    phase="control" if method != "he2018" else "warmup" if warm else "learned",
                    reward=quality / 100,
                    quality=quality,
                    costs={
                        "macs": 0.4999 - 0.004 * float(random.random()),
                        "params": float(0.45 + 0.2 * random.random()),
                        "size_bytes": float(0.46 + 0.2 * random.random()),
                    },
                    seconds=0.9,
                )
            )
    return tuple(points)


@functools.cache
def page_source() -> str:
    """The page of the realistic run, drawn once for all tests."""
    return render_html(realistic_run())


def realistic_run() -> RunSummary:
    layers, groups = _layers()
    trials = _trials()
    best = sorted((p for p in trials if p.method == "he2018"), key=lambda p: -p.quality)[:6]
    rest = [
        next(p for p in trials if p.method == "uniform"),
        max((p for p in trials if p.method == "cem"), key=lambda p: p.quality),
    ]
    macs = sum(layer.macs_before for layer in layers), sum(layer.macs_after for layer in layers)
    return RunSummary(
        version="0.1.0",
        model="resnet20",
        data="cifar10",
        recipe="he2018",
        recipe_config={"criterion": "l1", "num_trials": 200, "warmup": 60, "pruning_ratio_max": 0.8},
        seed=0,
        workers=1,
        target=Target(max_macs_ratio=0.5, max_top1_drop=1.0),
        policy=Policy(
            channels={
                g.group_id: ChannelDecision(pruning_ratio=1 - g.num_kept / g.num_channels) for g in groups if g.prunable
            }
        ),
        dense=Metrics(
            top1=91.73,
            top5=99.68,
            macs=macs[0],
            num_params=269722,
            size_bytes=1084392,
            num_samples=10000,
            split="test",
            latency=(_latency("torch", 1, 6.41), _latency("onnxruntime", 1, 2.31), _latency("onnxruntime", 64, 118.2)),
        ),
        compressed=Metrics(
            top1=90.61,
            top5=99.61,
            macs=macs[1],
            num_params=151034,
            size_bytes=548112,
            num_samples=10000,
            split="test",
            latency=(_latency("torch", 1, 6.22), _latency("onnxruntime", 1, 1.52), _latency("onnxruntime", 64, 71.9)),
        ),
        dense_search=Metrics(top1=98.87, num_samples=3000, split="search"),
        untuned=Metrics(top1=66.43, num_samples=3000, split="search"),
        original_bytes=1084392,
        score_name="top-1",
        mcnemar=McNemar(only_dense_right=301, only_compressed_right=189, p_value=4.6e-7),
        layers=layers,
        groups=groups,
        flow=_flow(layers),
        storage=_storage(layers),
        int8=int8_file(),
        trials=trials,
        confirmed=tuple(
            Confirmed(
                method=p.method,
                index=p.index,
                trial_quality=p.quality,
                confirmed_quality=p.quality - 0.8 + 0.1 * i,
                num_samples=3000,
                costs=p.costs,
                policy=Policy(),
            )
            for i, p in enumerate([*best, *rest])
        ),
        epochs=tuple(
            EpochPoint(
                epoch=e, train_loss=0.8 * 0.8**e + 0.06, quality=96.5 - 9 * 0.75**e, learning_rate=0.01, seconds=41.0
            )
            for e in range(1, 21)
        ),
        checks=(
            Check(
                name="cut network equals zeroed network",
                value=3.1e-7,
                limit=1e-4,
                passed=True,
                detail="fp32, 64 search images",
            ),
            Check(
                name="ONNX model equals the network",
                value=8.2e-6,
                limit=1e-3,
                passed=True,
                detail="onnxruntime, opset 20",
            ),
        ),
        caveats=(
            "The weights were trained on images of the search split, so absolute search accuracies are too high.",
            "Latency was measured on a machine with other work.",
        ),
        seconds={"trace": 1.8, "search": 289.0, "confirm": 21.0, "finetune": 820.0, "measure": 34.0},
        files={
            "model.tersenet": 548112,
            "model.onnx": 612034,
            "policy.json": 1422,
            "result.json": 91003,
            "report.html": 181020,
        },
        provenance={
            "command": "tersenet compress resnet20 --weights resnet20.safetensors --data cifar10:/data/cifar10 "
            "--max-macs-ratio 0.5 --out runs/r20",
            "python": "3.11.9",
            "torch": "2.13.0",
            "processor": "x86_64, 2 cores",
            "threads": "1",
            "data_hash": "9f31c1d02b7746d5a7c0",
            "weights_sha256": "5ac8a1d6c7f34c1d8f9d25a23ad6d3f0f6d9b2c1",
        },
    )
