"""What was measured of a network."""

from __future__ import annotations

from pydantic import BaseModel


class Latency(BaseModel, frozen=True, extra="forbid"):
    """Time of one forward pass, measured, never computed."""

    runtime: str
    """``torch`` or ``onnxruntime``."""

    batch_size: int
    """Inputs per pass."""

    median_ms: float
    """Median over the timed passes, milliseconds."""

    low_ms: float
    """Lower quartile, milliseconds."""

    high_ms: float
    """Upper quartile, milliseconds."""

    num_runs: int
    """Timed passes."""

    num_threads: int
    """Threads the runtime was allowed."""


class Metrics(BaseModel, frozen=True, extra="forbid"):
    """Measured properties of one network; None means not measured."""

    top1: float | None = None
    """Top-1 accuracy, percent."""

    top5: float | None = None
    """Top-5 accuracy, percent; None with fewer than 6 classes."""

    score: float | None = None
    """Result of the user's own ``evaluate``; higher is better."""

    score_name: str | None = None
    """What ``score`` is called in reports."""

    macs: int | None = None
    """Multiply-accumulates of convolution and linear layers at batch 1."""

    num_params: int | None = None
    """Parameters."""

    nonzero_macs: int | None = None
    """Those of the multiply-accumulates whose weight is not zero; a dense runtime does them all. None where nothing was
    pruned inside kernels."""

    num_nonzero: int | None = None
    """Parameters that are not zero; None where nothing was pruned inside kernels."""

    size_bytes: int | None = None
    """Bytes of the packed file, everything in it; for an original network 4 x (parameters + norm statistics)."""

    latency: tuple[Latency, ...] = ()
    """Timed forward passes."""

    num_samples: int | None = None
    """Inputs the accuracy or score was measured on."""

    split: str | None = None
    """Which split that was: ``search`` or ``test``."""

    device: str = "cpu"
    """Where it was measured."""

    not_counted: tuple[str, ...] = ()
    """Operators that ``macs`` does not include."""

    @property
    def quality(self) -> float:
        """The number that is to stay high: ``score`` where the user gave a metric, else ``top1``.

        Raises:
            ValueError: neither was measured.
        """
        value = self.score if self.score is not None else self.top1
        if value is None:
            raise ValueError("neither top1 nor score was measured")
        return value


class Evaluation(BaseModel, frozen=True, extra="forbid"):
    """What one trial measured."""

    metrics: Metrics
    """Measured on the search images of trials."""

    seconds: float
    """Wall-clock seconds the evaluation took; 0 if it was looked up."""

    stopped_early: bool = False
    """Whether the trial was given up as hopeless: ``metrics`` then hold the accuracy on the ``num_samples`` samples
    seen by then. Such a trial cannot become the best, and is not confirmed."""

    looked_up: bool = False
    """Whether the same policy was measured before in the same study, and not again."""
