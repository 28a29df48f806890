"""Random convolutional networks as operator graphs, without weights or a forward pass, to pre-train encoders on.

Each has a stem, a few stages that halve the maps and widen the channels, and in every stage blocks of one random kind:
plain, residual, bottleneck, inverted with a depthwise convolution, dense concatenation, or parallel branches; with or
without norms. Milliseconds each, where tracing a real network takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tersenet.embed.operator_graph import OperatorGraph, operator_graph
from tersenet.graph.model_graph import Layer, ModelGraph, Operator

BLOCKS = ("plain", "residual", "bottleneck", "inverted", "dense", "branches")


def random_graph(*, seed: int) -> OperatorGraph:
    """One random network; every layer but the last is decided."""
    builder = _Builder(np.random.default_rng(seed))
    builder.build()
    layers = tuple(builder.layers)
    graph = ModelGraph(
        layers=layers,
        edges=(),
        channel_groups=(),
        tensors=(),
        input_shape=(builder.operators[0].output_shape,),
        not_counted=(),
        operators=tuple(builder.operators),
    )
    return operator_graph(graph, [[layer.name] for layer in layers[:-1]])


class _Builder:
    """Appends operators one by one; a value is the position of the operator that makes it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.operators: list[Operator] = []
        self.layers: list[Layer] = []
        self._activation = str(rng.choice(["relu", "relu6", "silu", "hardswish"]))
        self._has_norms = bool(rng.random() < 0.8)

    def build(self) -> None:
        size = int(self._rng.choice([16, 32, 64, 128, 224]))
        width = int(self._rng.choice([8, 16, 32, 64]))
        value = self._add("input", (), (3, size, size))
        value = self._conv(value, width, stride=2 if size > 64 else 1)
        for stage in range(int(self._rng.integers(2, 5))):
            kind = str(self._rng.choice(BLOCKS))
            if stage:
                width, value = min(2 * width, 512), self._smaller(value, min(2 * width, 512))
            for _ in range(int(self._rng.integers(1, 5))):
                value = self._block(kind, value, width)
        value = self._add("mean", (value,), self._shape(value)[:1])
        self._linear(value, int(self._rng.choice([2, 10, 100, 1000])))

    def _shape(self, value: int) -> tuple[int, ...]:
        return self.operators[value].output_shape

    def _add(self, name: str, inputs: Sequence[int], shape: tuple[int, ...], weight: str = "") -> int:
        reads = tuple(sorted(set(inputs)))
        self.operators.append(
            Operator(name=name, inputs=reads, tensors=(weight,) if weight else (), output_shape=shape)
        )
        return len(self.operators) - 1

    def _layer(self, value: int, shape: tuple[int, ...], *, kernel: int, stride: int, groups: int) -> int:
        name = f"layer{len(self.layers)}"
        is_linear = len(shape) == 1
        inputs = self._shape(value)[0]
        num_params = shape[0] * (inputs // groups) * kernel * kernel
        spatial = () if is_linear else (kernel, kernel)
        self.layers.append(
            Layer(
                name=name,
                op="linear" if is_linear else "conv",
                weight=f"{name}.weight",
                in_channels=inputs,
                out_channels=shape[0],
                kernel_size=spatial,
                stride=tuple(stride for _ in spatial),
                conv_groups=groups,
                output_shape=shape,
                num_params=num_params,
                macs=num_params * int(np.prod(shape[1:])),
            )
        )
        return self._add("linear" if is_linear else "conv2d", (value,), shape, f"{name}.weight")

    def _linear(self, value: int, width: int) -> int:
        return self._layer(value, (width,), kernel=1, stride=1, groups=1)

    def _conv(self, value: int, width: int, *, kernel: int = 3, stride: int = 1, depthwise: bool = False) -> int:
        """A convolution with its norm and activation."""
        side = -(-self._shape(value)[1] // stride)
        shape = (width, side, side)
        value = self._layer(value, shape, kernel=kernel, stride=stride, groups=width if depthwise else 1)
        if self._has_norms:
            value = self._add("batch_norm", (value,), shape)
        return self._add(self._activation, (value,), shape)

    def _smaller(self, value: int, width: int) -> int:
        """Half the map, by stride or by pooling."""
        if self._rng.random() < 0.5:
            return self._conv(value, width, stride=2)
        channels, side, _ = self._shape(value)
        value = self._add("max_pool2d", (value,), (channels, max(1, side // 2), max(1, side // 2)))
        return self._conv(value, width)

    def _block(self, kind: str, value: int, width: int) -> int:
        channels, *spatial = self._shape(value)
        if kind == "plain":
            return self._conv(value, width, kernel=int(self._rng.choice([1, 3, 5])))
        if kind in ("dense", "branches"):
            parts = [value] if kind == "dense" else [self._conv(value, max(4, width // 2), kernel=1)]
            parts.append(self._conv(value, max(4, width // 2)))
            total = sum(self._shape(part)[0] for part in parts)
            return self._add("cat", parts, (total, *spatial))
        inner = {"residual": width, "bottleneck": max(4, width // 4), "inverted": 4 * width}[kind]
        out = self._conv(value, inner, kernel=3 if kind == "residual" else 1)
        if kind != "residual":
            out = self._conv(out, inner, depthwise=kind == "inverted")
        out = self._conv(out, channels, kernel=3 if kind == "residual" else 1)
        return self._add("add", (value, out), (channels, *spatial))
