"""Small networks, one for each way in which channels are coupled; tests run on all of them.

``NETWORKS`` maps a name to a factory; ``build`` gives a network with fixed random weights and lively norm
statistics together with example inputs, so that a wrong cut shows in the outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tersenet.testing.toy_chains import (
    Depthwise,
    FlattenIntoLinear,
    Mlp,
    NoNorm,
    OneOutput,
    PerChannelParameters,
    Plain,
    SharedModule,
    TiedWeights,
)
from tersenet.testing.toy_joins import (
    DenseConcat,
    GatedHalves,
    GroupedConv,
    InceptionConcat,
    OptionAResNet,
    PixelShuffler,
    PreActivation,
    Residual,
    ShuffleUnit,
    SqueezeExcite,
    TokenDecoder,
    UNet,
)

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "no_norm": NoNorm,
    "mlp": Mlp,
    "one_output": OneOutput,
    "flatten_into_linear": FlattenIntoLinear,
    "depthwise": Depthwise,
    "shared_module": SharedModule,
    "tied_weights": TiedWeights,
    "per_channel_parameters": PerChannelParameters,
    "residual": Residual,
    "pre_activation": PreActivation,
    "option_a": OptionAResNet,
    "dense_concat": DenseConcat,
    "inception_concat": InceptionConcat,
    "squeeze_excite": SqueezeExcite,
    "grouped_conv": GroupedConv,
    "shuffle_unit": ShuffleUnit,
    "gated_halves": GatedHalves,
    "pixel_shuffler": PixelShuffler,
    "token_decoder": TokenDecoder,
    "unet": UNet,
}
"""Name to factory; every network has something that can be cut."""


def example_inputs(name: str, *, seed: int = 0, batch_size: int = 2) -> tuple[Tensor, ...]:
    """Inputs that fit the network ``name``."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, 12) if name in ("mlp", "token_decoder") else (batch_size, 3, 16, 16)
    return (torch.randn(shape, generator=generator),)


def randomize(model: nn.Module, *, seed: int) -> nn.Module:
    """Give all parameters and norm statistics random values, in place, so that nothing is hidden by ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            if name.endswith("running_var"):
                tensor.copy_(noise.abs() + 0.5)
            elif tensor.ndim >= 2:
                tensor.copy_(noise * (2.0 / max(1, tensor[0].numel())) ** 0.5)
            elif name.endswith("weight"):
                tensor.copy_(noise.sign() * (noise.abs() * 0.3 + 0.7))
            else:
                tensor.copy_(noise * 0.3)
    return model


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The network ``name`` in eval mode, with random weights and statistics."""
    return randomize(NETWORKS[name](), seed=seed).eval()
