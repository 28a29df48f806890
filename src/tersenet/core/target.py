"""What the compressed network must keep to: upper bounds, relative or absolute; None means do not care."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from tersenet.core.bounds import Count, Positive
from tersenet.errors import TargetError

CostKind = Literal["macs", "params", "size_bytes", "nonzero_macs", "nonzero_params"]
"""What a network costs; the last two count only weights that are not zero."""

Ratio = Annotated[float, Field(gt=0.0, le=1.0)]


class Target(BaseModel, frozen=True, extra="forbid"):
    """Upper bounds on the compressed network, each optional, all of them hold together."""

    max_macs_ratio: Ratio | None = None
    """Share of the multiply-accumulates that may be left."""

    max_params_ratio: Ratio | None = None
    """Share of the parameters that may be left."""

    max_size_ratio: Ratio | None = None
    """Bytes of the packed file over the original bytes (4 x parameters and batch-norm statistics)."""

    max_latency_ratio: Ratio | None = None
    """Share of the latency that may be left."""

    max_macs: Count | None = None
    """Multiply-accumulates at batch 1."""

    max_params: Count | None = None
    """Parameters."""

    max_size_bytes: Count | None = None
    """Bytes of the packed file, everything in it."""

    max_latency_ms: Positive | None = None
    """Milliseconds of one forward pass at batch 1."""

    max_top1_drop: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    """Points of top-1 (or of the user's score) that may be lost, on the search split, after fine-tuning."""

    minimize: Literal["macs", "params", "size_bytes"] = "macs"
    """What is made small where only ``max_top1_drop`` is given, and what is given back if the drop is too large."""

    @model_validator(mode="after")
    def _checked(self) -> Target:
        if self.max_latency_ratio is not None or self.max_latency_ms is not None:
            name = "max_latency_ratio" if self.max_latency_ratio is not None else "max_latency_ms"
            raise ValueError(
                f"{name} cannot be used yet: latency is measured and reported, but it is not part of the search. "
                "Bound max_macs_ratio instead and read the latency in the report"
            )
        if not self.bounds() and self.max_top1_drop is None:
            raise ValueError(
                "a target needs at least one bound, for example max_macs_ratio=0.5 or max_size_bytes=500000"
            )
        return self

    def bounds(self) -> dict[str, float]:
        """The cost bounds that are set, by name; ``max_top1_drop`` is not among them."""
        names = ("max_macs_ratio", "max_params_ratio", "max_size_ratio", "max_macs", "max_params", "max_size_bytes")
        return {name: float(getattr(self, name)) for name in names if getattr(self, name) is not None}

    def limits(self, original: dict[CostKind, float]) -> dict[CostKind, float]:
        """Absolute upper bound per cost, the tighter one where both forms are set.

        Args:
            original: cost of the uncompressed network by kind, of those at least that a ratio bounds.
        """
        return {kind: maximum for kind, (maximum, _) in self._tightest(original).items()}

    def asked(self, original: dict[CostKind, float]) -> dict[CostKind, str]:
        """The bound behind each entry of ``limits`` as it was given, for example ``max_macs_ratio=0.5``."""
        return {kind: text for kind, (_, text) in self._tightest(original).items()}

    def _tightest(self, original: dict[CostKind, float]) -> dict[CostKind, tuple[float, str]]:
        names: tuple[tuple[CostKind, str, str], ...] = (
            ("macs", "max_macs_ratio", "max_macs"),
            ("params", "max_params_ratio", "max_params"),
            ("size_bytes", "max_size_ratio", "max_size_bytes"),
        )
        bounds = self.bounds()
        found: dict[CostKind, tuple[float, str]] = {}
        for kind, ratio, absolute in names:
            candidates = [
                (bounds[name] * (original[kind] if name == ratio else 1.0), f"{name}={bounds[name]:g}")
                for name in (ratio, absolute)
                if name in bounds
            ]
            if candidates:
                found[kind] = min(candidates)
        return found


def make_target(**bounds: float | int | str | None) -> Target:
    """Build a target from keyword bounds; errors come as one clear line.

    Raises:
        TargetError: a bound is unknown or out of its range, or none is given.
    """
    try:
        return Target.model_validate({name: value for name, value in bounds.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if where:
            message = f"{where}={first['input']!r}: {message}"
        raise TargetError(f"Target: {message}.") from None
