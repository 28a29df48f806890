"""A network is trained with learned noise; what the noise says of its channels, kernels or weights is measured.

The loss is the task's, plus beta times the nats of information dropout and once those of variational dropout, over the
number of training samples. Both are let in gradually: rates that rise before the network has met any noise end at their
largest everywhere. The last epoch's weights stay, since it is the noise that is wanted. Afterwards the noise is off for
good, and batch-norm statistics are measured anew, without which the network knows nothing.

Source: Achille and Soatto 2018, arXiv:1611.01353, equation 3 (beta = 3 in the authors' code for CIFAR-10); Molchanov et
al. 2017, arXiv:1701.05369. Differs: the network was trained before; no dropout on inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from tersenet.core.policy import KernelUnit
from tersenet.core.progress import Progress
from tersenet.criteria import Learned
from tersenet.data.splits import Inputs, SearchSplit, TrainSplit
from tersenet.graph import ModelGraph
from tersenet.measurement.task import Task
from tersenet.train.config import TrainConfig
from tersenet.train.epoch import Penalty
from tersenet.train.loop import fit
from tersenet.train.recalibrate import recalibrate
from tersenet.train.variational import attach_noise, detach_noise, measure_noise, noise_nats

BETA = 3.0
"""Weight of information dropout's nats."""

WARMUP = 0.3
"""Share of the epochs in which the weight of the nats rises from 0."""


def learn_noise(
    model: nn.Module,
    graph: ModelGraph,
    data_train: TrainSplit,
    search: SearchSplit,
    config: TrainConfig,
    *,
    calibration: Sequence[Inputs],
    channels: bool = True,
    unit: KernelUnit | None = None,
    beta: float = BETA,
    teacher: nn.Module | None = None,
    task: Task = Task(),  # noqa: B008 (frozen)
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Learned:
    """Train ``model`` with noise, in place; at return it is a plain network again, with other weights.

    Args:
        model: the traced network; ``graph`` is what tracing found.
        config: how to train; with 0 epochs the rates stay where they begin.
        calibration: batches of one size, for scores and for batch-norm statistics.
        channels: whether channels are scored.
        unit: which units inside the weights are scored; None: none.
        beta: weight of information dropout's nats.
        teacher: as for ``fit``, and what follows too.

    Returns:
        Mean scores of all channels and units that had noise.

    Raises:
        ModelError: no layer can have noise.
        DataError: there is no calibration batch.
        TersenetError: whatever ``fit`` raises.
    """
    num_samples = data_train.source.num_samples
    attach_noise(model, graph, num_samples=num_samples, channels=channels, unit=unit)
    try:
        fit(
            model,
            data_train,
            search,
            config,
            teacher=teacher,
            task=task,
            checkpoint=checkpoint,
            progress=progress,
            stage="learn noise",
            penalty=_penalty(model, config.epochs, num_samples=num_samples, beta=beta),
            keeps_best=False,
        )
        learned = measure_noise(model, calibration)
    finally:
        detach_noise(model)
    recalibrate(model, calibration)
    return learned


def _penalty(model: nn.Module, epochs: int, *, num_samples: int, beta: float) -> Penalty:
    def penalty(moment: float) -> Tensor:
        of_information, of_weights = noise_nats(model)
        share = min(1.0, moment / max(1e-9, WARMUP * epochs))
        return share * (beta * of_information + of_weights) / num_samples

    return penalty
