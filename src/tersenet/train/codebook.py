"""Fine-tuning of codebooks: the shared values are the parameters, every weight looks its value up.

Autograd then sums the gradients of all weights that share a value. A step along that sum is as many times too long as
the value has members: at the learning rates of ``fit`` it diverges (digits, k = 4, rate 0.01: 13 % where 96 % are
reached). The parameter is therefore the value times the square root of the number of its members, to a power of two so
that nothing is rounded, and a step moves the value by about the mean of their gradients, as it would one weight.

While codebooks are attached, a layer computes with exactly what will be stored (values rounded to the stored
precision), so the quality that training measures is that of the delivered network. All codebooks of a tensor are one
flat parameter, which keeps them out of the optimiser's weight decay. An entry that is exactly zero stays so.

Source: Han et al. 2016 (Deep Compression), arXiv:1510.00149, section 3.3, eq. 3; straight-through: Bengio et al. 2013,
arXiv:1308.3432, section 4. Differs: the length of a step, above.
Axes: N entries of all codebooks of a tensor, one codebook after the other; O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tersenet.train.attached import StoredForm, attach, detach
from tersenet.transforms.clusters import stack_blocks
from tersenet.transforms.coded import SharedWeights

Assignments = Literal["fixed", "straight_through"]
"""``fixed``: only codebooks are trained, every weight keeps its entry. ``straight_through``: full-precision weights
are trained beside them, and each takes the entry that is nearest to it at the moment."""


class SharedValues(StoredForm):
    """From latent weights to entries of codebooks; the codebooks are its parameter."""

    indices: Tensor
    """Entry of every weight, of all N, in its shape; where it began, if weights are assigned anew."""

    units: Tensor
    """What a step of 1 is worth, shape (N,); 0 for entries that stay zero."""

    pruned: Tensor
    """Latent weights that are exactly zero."""

    def __init__(self, coded: SharedWeights, weight: Tensor, *, assignments: Assignments) -> None:
        super().__init__(weight, learns_latent=assignments == "straight_through")
        self.axis = coded.axis
        self.channels_per_codebook = coded.channels_per_codebook
        self.shape = coded.codebooks.shape
        self.is_fixed = assignments == "fixed"
        indices_O = torch.from_numpy(coded.indices.astype(np.int64)).movedim(self.axis, 0)
        firsts_O = self._blocks(len(indices_O)) * self.shape[1]
        indices = (indices_O + firsts_O.reshape(-1, *[1] * (indices_O.ndim - 1))).movedim(0, self.axis).contiguous()
        stored_N = torch.from_numpy(coded.codebooks.reshape(-1))
        self.stored_as = stored_N.dtype
        members_N = indices.reshape(-1).bincount(minlength=len(stored_N)).clamp_min(1)
        units_N = torch.exp2(-(0.5 * members_N.double().log2()).round())
        self.codebook = nn.Parameter((stored_N.double() / units_N).to(weight), weight.requires_grad)
        """Values over their units, shape (N,)."""
        self.register_buffer("indices", indices.to(weight.device))
        self.register_buffer("units", torch.where(stored_N == 0, 0.0, units_N).to(weight))
        self.register_buffer("pruned", weight.detach() == 0)

    def forward(self, latent: Tensor) -> Tensor:
        """The weights that will be stored, in shape and dtype of the latent ones."""
        values_N = self.codebook * self.units
        look_up: Callable[..., Tensor] = _LookUp.apply
        weight: Tensor = look_up(values_N, latent, self.entries(latent), self.pruned, self.stored_as)
        return weight

    @torch.no_grad()
    def entries(self, latent: Tensor) -> Tensor:
        """Entry of every weight, of all N, in its shape."""
        if self.is_fixed:
            return self.indices
        latent_O = latent.masked_fill(self.pruned, 0.0).movedim(self.axis, 0)
        block_O = self._blocks(len(latent_O)).to(latent.device)
        rows, order = _rounded(self.codebook * self.units, self.stored_as).reshape(self.shape).sort(dim=1)
        between_O = (0.5 * (rows[:, 1:] + rows[:, :-1]))[block_O]
        places_OF = torch.searchsorted(between_O, latent_O.reshape(len(latent_O), -1).contiguous())
        entries_OF = order[block_O].gather(1, places_OF) + block_O[:, None] * self.shape[1]
        entries: Tensor = entries_OF.reshape(latent_O.shape).movedim(0, self.axis).contiguous()
        return entries

    @torch.no_grad()
    def coded(self, latent: Tensor) -> SharedWeights:
        """What is stored; ``values()`` are the weights that ``forward`` gives."""
        stored_N = _rounded(self.codebook * self.units, self.stored_as).to(self.stored_as)
        entries_O = self.entries(latent).cpu().movedim(self.axis, 0)
        return stack_blocks(
            list(stored_N.cpu().numpy().reshape(self.shape)),
            [part.reshape(-1).numpy() % self.shape[1] for part in torch.split(entries_O, self.channels_per_codebook)],
            shape=tuple(latent.shape),
            axis=self.axis,
            channels_per_codebook=self.channels_per_codebook,
        )

    def _blocks(self, num_channels: int) -> Tensor:
        """Number of the codebook of each output channel, shape (O,)."""
        return torch.arange(num_channels) // self.channels_per_codebook


def attach_codebooks(
    model: nn.Module, coded: Mapping[str, SharedWeights], *, assignments: Assignments = "fixed"
) -> None:
    """Let layers compute with shared values that are learned; changes ``model`` in place.

    The network can then be copied, saved and trained by ``fit``. Names in ``state_dict()`` change until
    ``detach_codebooks``. Tensors that are one stay one; weights that are not named are trained as before.

    Args:
        model: any mode, any device. With ``straight_through``, the weights it holds now are where the latent ones
            begin; those that are exactly zero stay zero.
        coded: by name of the weight, as in ``state_dict()``.
        assignments: what is trained.

    Raises:
        PolicyError: the model has no such weight, or its shape is another, or it has codebooks already; nothing is
            changed.
    """
    attach(model, coded, partial(SharedValues, assignments=assignments), way_out=_WAY_OUT)


_WAY_OUT = "Cluster the weights of this very model, and call detach_codebooks before codebooks are attached anew."


def detach_codebooks(model: nn.Module) -> dict[str, SharedWeights]:
    """Take all codebooks off again, in place: plain modules remain, whose weights are what ``values()`` gives.

    Returns:
        The learned codebooks, ascending, without entries that are not used, and the indices, by name of the weight as
        in ``state_dict()``; under its first name where it has several.
    """
    return cast("dict[str, SharedWeights]", detach(model, SharedValues))


def _rounded(values_N: Tensor, stored_as: torch.dtype) -> Tensor:
    """Values as they come back from the file."""
    if stored_as == torch.float32:
        return values_N
    highest = torch.finfo(stored_as).max
    return values_N.clamp(-highest, highest).to(stored_as).to(values_N.dtype)


class _LookUp(torch.autograd.Function):
    """Rounded entries; the gradient of an entry is the sum over its members, that of a latent weight its own."""

    @staticmethod
    def forward(
        ctx: Any, values_N: Tensor, latent: Tensor, entries: Tensor, pruned: Tensor, stored_as: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(entries, pruned)
        ctx.count = len(values_N)
        return _rounded(values_N, stored_as)[entries]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        entries, pruned = ctx.saved_tensors
        # in float64 and in a fixed order; threads race for the gradient of indexing
        summed = torch.bincount(entries.reshape(-1), gradient.reshape(-1).double(), minlength=ctx.count)
        to_latent = gradient.masked_fill(pruned, 0.0) if ctx.needs_input_grad[1] else None
        return summed.to(gradient.dtype), to_latent, None, None, None
