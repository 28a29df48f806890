"""Trials of a network in training: each one switches channels, trains on, and measures where that has led.

What is measured depends on everything that came before, so trials are told one after the other, by one process, and
none is looked up. What is on is given by policies that list channels (``keep``) or hold masks of 2-D kernels.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.data.splits import SearchSplit
from tersenet.envs.kernel_rules import BoolArray
from tersenet.envs.switched import Switched, SwitchedChannels
from tersenet.errors import SearchError
from tersenet.measurement import measure_quality
from tersenet.measurement.task import Task
from tersenet.train.live import LiveSession


class LiveEvaluator:
    """Trains and measures one session; implements ``core.protocols.Evaluator``."""

    def __init__(
        self,
        session: LiveSession,
        search: SearchSplit,
        *,
        num_trial_samples: int,
        batches_per_round: int,
        switched: Switched | None = None,
        task: Task = Task(),  # noqa: B008 (frozen)
        device: str = "cpu",
        workers: int = 1,
    ) -> None:
        """Keep what trials need.

        Args:
            session: trained by every trial.
            search: its first ``num_trial_samples`` measure trials, the rest confirms.
            num_trial_samples: at least 1, and fewer than the split has.
            batches_per_round: training batches of one trial.
            switched: how policies say what is on; the channels of the session's groups without.
            task: the user's own metric; accuracy without.
            device: where the session trains.
            workers: must be 1.

        Raises:
            SearchError: there are several workers.
        """
        check_one_worker(workers)
        self._session = session
        self._search = search.source
        self._num_trial_samples = num_trial_samples
        self._batches_per_round = batches_per_round
        sizes = {name: len(mask) for name, mask in session.active.items()}
        self._switched = SwitchedChannels(sizes) if switched is None else switched
        self._task = task
        self._device = device
        self._training = threading.Lock()

    @property
    def signature(self) -> dict[str, str]:
        """What must be equal for a run to go on."""
        return {
            "evaluator": "live",
            "device": self._device,
            "threads": str(torch.get_num_threads()),
            "torch": torch.__version__,
            "trial_samples": str(self._num_trial_samples),
            "batches_per_round": str(self._batches_per_round),
            "metric": self._task.quality_name,
        }

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        """Switch what the policy says, train a round, measure on the trial images in the precision of the training.

        Args:
            hopeless_below: not used; a round that is given up would still have trained the network.

        Raises:
            PolicyError: the policy does not say what of the session is on.
            SearchError: another trial is under way.
            TrainingError: the loss is not finite.
        """
        begin = time.perf_counter()
        with self._alone():
            self._session.set_active(self._masks(policy))
            self._session.train(self._batches_per_round)
            metrics = measure_quality(
                self._session.compact,
                self._search,
                self._task,
                split="search",
                device=self._device,
                dtype="bf16" if self._session.autocast else "fp32",
                first=self._num_trial_samples,
            )
            self._session.record(metrics.quality)
        return Evaluation(metrics=metrics, seconds=time.perf_counter() - begin)

    def confirm(self, policy: Policy) -> Evaluation:
        """Measure these channels, with the weights they have now, on the search images that trials never see.

        Raises:
            PolicyError: the policy does not list channels of the session's groups.
            SearchError: a trial is under way.
        """
        begin = time.perf_counter()
        with self._alone():
            metrics = measure_quality(
                self._session.network_of(self._masks(policy)),
                self._search,
                self._task,
                split="search",
                device=self._device,
                skip=self._num_trial_samples,
            )
        return Evaluation(metrics=metrics, seconds=time.perf_counter() - begin)

    def _masks(self, policy: Policy) -> dict[str, BoolArray]:
        return self._switched.masks(policy)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._training.acquire(blocking=False):
            raise SearchError(
                "This method trains one live model, and a trial of it is still under way. Wait for it to end before "
                "the next one is evaluated."
            )
        try:
            yield
        finally:
            self._training.release()


def check_one_worker(workers: int) -> None:
    """Refuse several workers.

    Raises:
        SearchError: there are not exactly one.
    """
    if workers != 1:
        raise SearchError(f"This method trains one live model, so it cannot use {workers} workers. Set workers to 1.")
