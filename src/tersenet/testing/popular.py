"""Ten networks written by hand in the style of popular repositories, and the inputs they take.

They are small in width and depth, but join channels in all the ways of the originals.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersenet.testing.networks import randomize
from tersenet.testing.popular_images import GhostNet, HighResolution, RepVgg, SeResNext
from tersenet.testing.popular_maps import Detector, FeaturePyramid, SkipUNet, SuperResolution, Temporal, Volume

POPULAR: dict[str, Callable[[], nn.Module]] = {
    "yolo_c2f": Detector,
    "unet": SkipUNet,
    "fpn": FeaturePyramid,
    "se_resnext": SeResNext,
    "ghostnet": GhostNet,
    "repvgg": RepVgg,
    "hrnet": HighResolution,
    "super_resolution": SuperResolution,
    "temporal_cnn": Temporal,
    "cnn_3d": Volume,
}
"""Name to factory."""

_SHAPES = {"temporal_cnn": (4, 24), "cnn_3d": (3, 4, 16, 16), "super_resolution": (3, 8, 8)}


def popular(name: str, *, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """The network ``name`` in eval mode with random weights and statistics, and example inputs of batch 2."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((2, *_SHAPES.get(name, (3, 32, 32))), generator=generator)
    return randomize(POPULAR[name](), seed=seed).eval(), images
