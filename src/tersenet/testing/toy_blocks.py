"""Blocks that keep the number of channels, one for each way in which repositories split, shuffle and join them.

All map (B, C, 6, 6) to the same shape, with C a multiple of 4, so that random networks can be strung together of
them. Sizes in the forwards come from the tensors, as they do in a well-written one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitAttention(nn.Module):
    """ResNeSt with radix 2: a grouped convolution makes two maps, a softmax over the two weighs them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, padding=1, groups=2)
        self.squeeze, self.excite = nn.Conv2d(width, 6, 1), nn.Conv2d(6, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = F.relu(self.conv(x)).chunk(2, dim=1)
        gate = self.excite(F.relu(self.squeeze((parts[0] + parts[1]).mean((2, 3), keepdim=True))))
        gate = gate.view(gate.size(0), 1, 2, -1).transpose(1, 2).softmax(dim=1)
        gates = gate.reshape(gate.size(0), -1, 1, 1).chunk(2, dim=1)
        joined: Tensor = parts[0] * gates[0] + parts[1] * gates[1]
        return joined


class SelectiveKernel(nn.Module):
    """SKNet: branches of two kernel sizes stacked, weighed by a softmax over the branches, summed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=2, dilation=2)]
        )
        self.squeeze = nn.Linear(width, 6)
        self.excite = nn.ModuleList(nn.Linear(6, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.stack([branch(x) for branch in self.branches], dim=1)
        squeezed = F.relu(self.squeeze(maps.sum(dim=1).mean((2, 3))))
        gates = torch.stack([excite(squeezed) for excite in self.excite], dim=1).softmax(dim=1)
        return (maps * gates[..., None, None]).sum(dim=1)


class Res2(nn.Module):
    """Res2Net: quarters of the channels, each convolved together with the result of the one before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.convs = nn.ModuleList(nn.Conv2d(width // 4, width // 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        quarters = self.first(x).chunk(4, dim=1)
        made = [quarters[0]]
        for conv, quarter in zip(self.convs, quarters[1:], strict=True):
            made.append(F.relu(conv(quarter + made[-1] if len(made) > 1 else quarter)))
        joined: Tensor = self.last(torch.cat(made, dim=1))
        return x + joined


class PartialCross(nn.Module):
    """CSP: one half passes, the other is convolved; joined and shuffled in two groups."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.PReLU(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        passed, given = x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat([passed, self.conv(given)], dim=1), 2)


class Unbound(nn.Module):
    """Pairs of channels side by side, taken apart by unbind and by indexing, joined the other way round."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        halves = self.conv(x).unflatten(1, (2, -1))
        one, other = halves.unbind(1)
        return torch.cat([other, one + halves[:, 1].tanh()], dim=1)


class Maxout(nn.Module):
    """Twice the channels, of which the larger of each two neighbours stays."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x.view(x.size(0), -1, 2, x.size(2), x.size(3)).amax(dim=2)


class SpaceToDepth(nn.Module):
    """Positions become channels by slices (YOLO's focus), come back by a view (pixel shuffle by hand)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(4 * width, 8, 1), nn.Conv2d(8, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        x = self.up(torch.relu(self.down(torch.cat(parts, dim=1))))
        batch, _, rows, columns = x.shape
        x = x.view(batch, -1, 2, 2, rows, columns).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(batch, -1, 2 * rows, 2 * columns)


class Unfolded(nn.Module):
    """Windows as columns, a linear map over them, and columns summed back into a map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.back = nn.Conv1d(9 * width, 6, 1), nn.Conv1d(6, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.back(torch.relu(self.mix(F.unfold(x, 3, padding=1, stride=2))))
        return F.fold(columns, (x.size(2), x.size(3)), 2, stride=2)


class OddKernels(nn.Module):
    """Asymmetric, dilated and transposed convolutions, a depth multiplier, a gate with one output channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.row = nn.Conv2d(width, 6, (1, 3), padding=(0, 1))
        self.column = nn.Conv2d(6, 8, (3, 1), padding=(2, 0), dilation=(2, 1))
        self.widen = nn.Conv2d(8, 24, 3, padding=1, groups=8)
        self.up = nn.ConvTranspose2d(24, width, 3, padding=1, groups=2)
        self.gate = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.widen(F.relu(self.column(self.row(x)))))
        return x * torch.sigmoid(self.gate(x))


class ScaledBranch(nn.Module):
    """A transformer's MLP on the channels, scaled by a parameter per channel, dropped at random in training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x.permute(0, 2, 3, 1)))) * self.scale
        if self.training:
            y = y * y.new_empty((y.size(0), 1, 1, 1)).bernoulli_(0.9)
        return x + y.permute(0, 3, 1, 2)


class FrozenNorm(nn.Module):
    """A norm whose four tensors are buffers, computed with as plain values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        for number, name in enumerate(("weight", "bias", "running_mean", "running_var")):
            self.register_buffer(name, torch.linspace(0.5, 1.5, width) + number)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, mean, variance = (buffer.view(1, -1, 1, 1) for buffer in self.buffers())
        scale = scale * (variance + 1e-5).rsqrt()
        made: Tensor = self.conv(x) * scale + (shift - mean * scale)
        return made


class Tied(nn.Module):
    """Two convolutions with one weight, one of them called twice; a linear layer that reads what it also writes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1, bias=False)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.other(F.relu(self.one(F.relu(self.one(x)))))
        return y


class Sampled(nn.Module):
    """A map read at computed places (spatial transformer), rows in another order, a blur with a fixed kernel."""

    blur: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(width, width, 3, padding=1), nn.Linear(width, 6)
        self.register_buffer("blur", torch.tensor([1.0, 2.0, 1.0]).view(1, 1, 1, 3).repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        turn = self.places(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(turn, [x.size(0), 1, x.size(2), x.size(3)], align_corners=False)
        x = F.grid_sample(torch.relu(self.conv(x)), grid, align_corners=False)
        x = x[:, :, torch.tensor([1, 0, 3, 2, 5, 4])]
        return F.conv2d(x, self.blur, padding=(0, 1), groups=x.size(1))


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "split_attention": SplitAttention,
    "selective_kernel": SelectiveKernel,
    "res2": Res2,
    "partial_cross": PartialCross,
    "unbound": Unbound,
    "maxout": Maxout,
    "space_to_depth": SpaceToDepth,
    "unfolded": Unfolded,
    "odd_kernels": OddKernels,
    "scaled_branch": ScaledBranch,
    "frozen_norm": FrozenNorm,
    "tied": Tied,
    "sampled": Sampled,
}
"""Name to block, made from its number of channels."""


class Framed(nn.Module):
    """One block between a convolution of 8 channels and a classifier; takes (B, 3, 6, 6)."""

    def __init__(self, block: str) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), BLOCKS[block](8)
        self.last, self.head = nn.Conv2d(8, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(F.relu(self.last(self.block(torch.tanh(self.stem(x))))).mean((2, 3)))
        return scores
