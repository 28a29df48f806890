"""A tiny network with one of everything that a packed file can hold, and a cut of it made by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Policy, Raw

KEEP = (0, 2, 3)
COLUMNS = (0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15)


class TinyNet(nn.Module):
    """Conv, norm, flatten, two linear layers with tied weights; buffers of three kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(16, 5)
        self.twin = nn.Linear(16, 5)
        self.twin.weight = self.head.weight
        self.register_buffer("mask", torch.tensor([True, False, True, True, False]))
        self.register_buffer("steps", torch.tensor([[-3], [100]], dtype=torch.int8))

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.conv(images)))
        columns = nn.functional.adaptive_avg_pool2d(features, 2).flatten(1)
        outputs: Tensor = (self.head(columns) + self.twin(columns)) * self.mask
        return outputs


def numbered(model: nn.Module) -> nn.Module:
    """Give value k of floating-point tensor n the value ((k + n) mod 97 - 19) / 64, which fp16 holds exactly."""
    with torch.no_grad():
        for number, tensor in enumerate(model.state_dict().values()):
            if tensor.is_floating_point():
                counts = torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
                tensor.copy_(((counts + number) % 97 - 19) / 64)
        dict(model.named_buffers())["bn.running_var"].add_(1.0)
    return model


def tiny_plan() -> Plan:
    """Channel 1 of the convolution goes, and columns 4 to 7 of both linear layers."""
    norm = [Cut(tensor=f"bn.{leaf}", axis=0, keep=0) for leaf in ("weight", "bias", "running_mean", "running_var")]
    convolution = [Cut(tensor="conv.weight", axis=0, keep=0), Cut(tensor="conv.bias", axis=0, keep=0)]
    linear = [Cut(tensor="head.weight", axis=1, keep=1)]
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {
        "conv": {"out_channels": 3},
        "bn": {"num_features": 3},
        "head": {"in_features": 12},
        "twin": {"in_features": 12},
    }
    return Plan(
        keeps=(KEEP, COLUMNS),
        cuts=(*convolution, *norm, *linear),
        attributes=attributes,
        kept_channels={"conv": KEEP},
    )


def tiny_policy() -> Policy:
    """The decision behind the plan; the linear layer is stored as fp16."""
    return Policy(channels={"conv": ChannelDecision(keep=KEEP)}, storage={"head": Raw(dtype="fp16")})


def cut_by_hand(model: nn.Module) -> nn.Module:
    """What ``tiny_plan`` means, done with plain indexing on a fresh network."""
    small = TinyNet()
    small.conv, small.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
    small.head, small.twin = nn.Linear(12, 5), nn.Linear(12, 5)
    small.twin.weight = small.head.weight
    cut = dict(model.state_dict())
    for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        cut[name] = cut[name][list(KEEP)]
    for name in ("head.weight", "twin.weight"):
        cut[name] = cut[name][:, list(COLUMNS)]
    small.load_state_dict(cut)
    return small.eval()
