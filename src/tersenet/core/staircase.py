"""How the time of a convolution rises with its channels on a runtime, as measured, and the block that follows."""

from __future__ import annotations

from pydantic import BaseModel


class Probed(BaseModel, frozen=True, extra="forbid"):
    """Convolutions of one kind with different numbers of channels."""

    kernel_size: tuple[int, ...]

    positions: tuple[int, ...]
    """Size of the feature maps, one number per spatial axis."""

    times_ms: dict[int, float]
    """Milliseconds by number of channels, which is that of inputs and outputs; the largest is what the others are
    rounded up to."""


class Staircase(BaseModel, frozen=True, extra="forbid"):
    """What ``round_to="auto"`` found."""

    round_to: int
    """Channels of a block."""

    runtime: str
    """With one thread."""

    probed: tuple[Probed, ...]
    """Kinds of convolutions of the network, those with most of its multiply-accumulates first."""

    @property
    def note(self) -> str:
        """What was found, as a sentence with an example."""
        first = self.probed[0]
        top = max(first.times_ms)
        share = first.times_ms[top] / first.times_ms[top - 1]
        kernel = "x".join(str(size) for size in first.kernel_size)
        return (
            f"round_to=auto: channels of wide groups are removed in blocks of {self.round_to}, as measured in "
            f"{self.runtime} with one thread; a {kernel} convolution of "
            f"{top} channels took {share:.2f} times as long as one of {top - 1}."
        )
