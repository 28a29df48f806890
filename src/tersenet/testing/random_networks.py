"""Random networks that join channels in every way the toy networks know, in random order.

Each network keeps a pool of feature maps and applies random operators to random members of it; all sizes are taken
from the tensors, as in a well-written forward, so that every group that tracing calls prunable can really be cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.testing.networks import randomize
from tersenet.testing.toy_blocks import BLOCKS

_OPERATORS = (
    "conv", "conv", "norm", "depthwise", "grouped", "add", "add", "cat", "halves", "shuffle", "gate", "pad",
    "scale", "prelu", "relu", "chunk_cat", "linear_nhwc", "pixel", "repeat", "double", "shared",
)  # fmt: skip
STEPS = (*_OPERATORS, *BLOCKS)


class RandomNetwork(nn.Module):
    """A network of ``num_steps`` random operators on maps of 6 x 6; gives 4 numbers per image.

    Args:
        seed: fixes structure and weights.
        kinds: the operators in order, out of ``STEPS``; ``num_steps`` random ones if they are not given.
    """

    def __init__(self, *, seed: int, num_steps: int = 10, kinds: Sequence[str] = ()) -> None:
        super().__init__()
        self._rng = np.random.default_rng(seed)
        self.steps: list[tuple[str, tuple[int, ...]]] = []
        self.parts = nn.ModuleDict()
        self.scales = nn.ParameterDict()
        self.parts["stem"] = nn.Conv2d(3, 8, 3, padding=1)
        widths = [8]
        for number, kind in enumerate(kinds or [str(kind) for kind in self._rng.choice(STEPS, size=num_steps)]):
            self._add_step(number, kind, widths)
        # the newest maps reach the output; a map that nobody reads would leave its layers without effect
        self.parts["head"] = nn.Linear(sum(widths[-2:]), 4)
        del self._rng
        self._needed = self._reached()
        randomize(self, seed=seed)
        self.eval()

    def _reached(self) -> set[int]:
        """Maps that the output depends on; parts of the others are removed."""
        reached = {len(self.steps), len(self.steps) - 1}
        for number in reversed(range(len(self.steps))):
            if number + 1 in reached:
                reached.update(self.steps[number][1])
                continue
            for held in (self.parts, self.scales):
                if f"s{number}" in held:
                    del held[f"s{number}"]
        return reached

    def _add_step(self, number: int, kind: str, widths: list[int]) -> None:
        first = int(self._rng.integers(max(0, len(widths) - 3), len(widths)))
        inputs: tuple[int, ...] = (first,)
        width, out, name = widths[first], int(self._rng.choice([4, 8, 12])), f"s{number}"
        same = [other for other in range(len(widths)) if widths[other] == width]
        if kind in ("halves", "chunk_cat", "shuffle") and (width % 4 or width == 4):
            kind = "conv"
        if (kind == "pixel" and width % 8) or (kind in BLOCKS and width % 4):
            kind = "relu"
        if kind == "conv":
            self.parts[name] = nn.Conv2d(width, out, 3, padding=1, bias=bool(self._rng.integers(2)))
        elif kind == "grouped":
            out = out if width % 4 == 0 else width
            self.parts[name] = nn.Conv2d(width, out, 3, padding=1, groups=4 if width % 4 == 0 else 1)
        elif kind in ("norm", "depthwise", "prelu", "double", "shared"):
            out = self._add_unary(kind, name, width)
        elif kind == "linear_nhwc":
            self.parts[name] = nn.Linear(width, out)
        elif kind == "gate":
            self.parts[name] = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
            out = width
        elif kind in BLOCKS:
            self.parts[name] = BLOCKS[kind](width)
            out = width
        elif kind == "scale":
            self.scales[name] = nn.Parameter(torch.ones(width, 1, 1))
            out = width
        elif kind == "pad":
            same = [other for other in range(len(widths)) if widths[other] == width + 4]
            inputs, out = (first, int(self._rng.choice(same)) if same else first), width + 4 if same else width
        elif kind in ("add", "cat"):
            others = same if kind == "add" else list(range(len(widths)))
            other = int(self._rng.choice(others))
            inputs, out = (first, other), width if kind == "add" else width + widths[other]
        else:
            out = {"halves": width // 2, "repeat": 2 * width}.get(kind, width)
        self.steps.append((kind, inputs))
        widths.append(out)

    def _add_unary(self, kind: str, name: str, width: int) -> int:
        made: dict[str, nn.Module] = {
            "norm": nn.BatchNorm2d(width),
            "depthwise": nn.Conv2d(width, width, 3, padding=1, groups=width),
            "prelu": nn.PReLU(width),
            "double": nn.Conv2d(width, 2 * width, 1, groups=width),
            "shared": nn.Conv2d(width, width, 1),
        }
        self.parts[name] = made[kind]
        return 2 * width if kind == "double" else width

    def forward(self, x: Tensor) -> Tensor:
        maps = [torch.tanh(self.parts["stem"](x))]
        for number, (kind, inputs) in enumerate(self.steps):
            given = [maps[index] for index in inputs]
            maps.append(self._step(kind, f"s{number}", given) if number + 1 in self._needed else given[0])
        pooled = torch.cat([m.mean((2, 3)) for m in maps[-2:]], dim=1)
        result: Tensor = self.parts["head"](pooled)
        return result

    def _step(self, kind: str, name: str, given: list[Tensor]) -> Tensor:
        x = given[0]
        if kind == "gate":
            return x * torch.sigmoid(self._part(name, x.mean((2, 3), keepdim=True)))
        if kind == "linear_nhwc":
            return self._part(name, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if kind == "shared":
            return self._part(name, F.relu(self._part(name, x)))
        if kind == "scale":
            scaled: Tensor = x * self.scales[name]
            return scaled
        if name in self.parts:
            return self._part(name, x)
        return _parameter_free(kind, given)

    def _part(self, name: str, x: Tensor) -> Tensor:
        result: Tensor = self.parts[name](x)
        return result


def _parameter_free(kind: str, given: list[Tensor]) -> Tensor:
    x, other = given[0], given[-1]
    batch, channels, height, width = x.shape
    if kind == "add":
        return x + other
    if kind == "cat":
        return torch.cat([x, other], dim=1)
    if kind == "pad":
        return F.pad(x, (0, 0, 0, 0, 2, 2)) + other if x is not other else x
    if kind == "halves":
        one, two = x.chunk(2, dim=1)
        return one * torch.sigmoid(two)
    if kind == "chunk_cat":
        one, two = x.chunk(2, dim=1)
        return torch.cat([F.relu(two), one], dim=1)
    if kind == "shuffle":
        return x.view(batch, 4, channels // 4, height, width).transpose(1, 2).flatten(1, 2)
    if kind == "pixel":
        return F.interpolate(F.pixel_shuffle(x, 2), size=(height, width)).repeat(1, 4, 1, 1)
    if kind == "repeat":
        return x.repeat(1, 2, 1, 1)
    return F.relu(x)
