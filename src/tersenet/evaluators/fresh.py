"""Measures a policy on a network cut afresh for every trial; nothing is remembered from one to the next.

A trial costs a copy of the smaller network, its repair (a pass over some training inputs for its batch-norm statistics,
unless another one is asked for), and a pass over the first part of the search split, all kept in memory. Where the
processor computes in bfloat16 and the original network keeps its accuracy with it, trials use it; the confirmation on
the rest of the search split is fp32.

What a trial consists of, and what was tried to make it cheaper, stands with its numbers in ``docs/design.md``.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.criteria import Learned
from tersenet.data.splits import Inputs, SearchSplit, Source, TrainSplit
from tersenet.errors import DataError, SearchError
from tersenet.evaluators.racing import raced_accuracy
from tersenet.evaluators.repair import LESSON_SAMPLES, RepairName, make_repair
from tersenet.graph import ModelGraph, duplicate
from tersenet.measurement.accuracy import Accuracy, accuracy_over, settle_layout
from tersenet.measurement.metrics import metrics_of
from tersenet.measurement.placement import (
    Batch,
    PlacedBatches,
    Placement,
    has_fast_bf16,
    hold,
    num_in,
    placement_for,
    samples_per_pass,
)
from tersenet.measurement.score import score_over
from tersenet.measurement.task import Task
from tersenet.train.recalibrate import batch_norms
from tersenet.train.zeros import kept_zeros
from tersenet.transforms import Coder, make_plan, materialize, write_values

BF16_TOLERANCE = 0.2
"""Points of top-1 by which bfloat16 may change the original network."""

_LIMIT_BYTES = 2 * 10**9

TrialFormat = Literal["auto", "fp32", "bf16"]


class FreshEvaluator:
    """Cuts, recalibrates and measures; the same policy gives the same result.

    Not safe for use from several threads at once.
    """

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        train: TrainSplit,
        search: SearchSplit,
        *,
        num_trial_samples: int,
        seed: int,
        task: Task = Task(),  # noqa: B008 (frozen)
        device: str = "cpu",
        dtype: TrialFormat = "auto",
        repair: RepairName = "recalibrate",
        coder: Coder | None = None,
        learned: Learned | None = None,
        num_recalibration_samples: int = 500,
        batch_size: int | None = None,
    ) -> None:
        """Copy the model, read the data into memory, choose the number format.

        Args:
            model: the original network; not changed.
            graph: what tracing it found.
            train: gives the inputs for batch-norm statistics, a fixed choice by ``seed``.
            search: its first ``num_trial_samples`` measure trials, the rest confirms.
            num_trial_samples: at least 1, and fewer than the split has.
            seed: of that choice and of the criteria.
            task: the user's own metric; accuracy without.
            device: where trials run.
            dtype: ``auto`` is bfloat16 where the processor computes in it and the original network's top-1 stays within
                0.2 points, else fp32; with the user's own metric, whose unit is not known, it is fp32.
            repair: what is done to a cut network before it is measured, see ``repair.py``.
            coder: what codes the weights that a policy stores as clusters or integers; its memory is shared.
            learned: what training with noise found out, for criteria that rank by it.
            num_recalibration_samples: training inputs per trial; whole batches are used.
            batch_size: inputs per forward pass (a user's own batches keep their size); None: 100 on the CPU, whose
                caches then hold the activations of small networks, else 250, or fewer where inputs are large.

        Raises:
            DataError: the splits are too small.
            ModelError: the network cannot be copied, fails on the data, or needs a metric of its own.
            SearchError: the user's metric fails on the original network, or its outputs are not numbers.
            UnknownNameError: there is no such device.
        """
        _check_sizes(search.source, num_trial_samples)
        self._graph = graph
        self._task = task
        self._seed = seed
        self._num_trial_samples = num_trial_samples
        self._search = search.source
        plain = placement_for(model, device)
        most = 100 if plain.device.type == "cpu" else 250
        self._batch_size = batch_size or samples_per_pass(search.source, plain.device.type, most=most)
        self._model = duplicate(model).to(plain.device).eval()
        self._fp32 = plain
        if task.metric is None:  # a user's metric may view the outputs, so it gets them as the model makes them
            with torch.no_grad():
                self._fp32 = settle_layout(self._model, search.source, plain)
        self._trial_batches = hold(self._batches(first=num_trial_samples), limit_bytes=_LIMIT_BYTES)
        self._learned = learned
        self._coder = Coder() if coder is None else coder
        self._repair_name = repair
        has_statistics = bool(batch_norms(self._model))
        self._calibration = self._read_inputs(train.source, num_recalibration_samples) if has_statistics else []
        has_lessons = repair in ("reconstruct", "distill")
        self._repair = make_repair(
            repair,
            self._model,
            graph,
            calibration=self._calibration,
            lessons=self._read_inputs(train.source, LESSON_SAMPLES) if has_lessons else [],
            seed=seed,
        )
        self._trial = replace(self._fp32, autocast=self._uses_bf16(dtype))

    @property
    def signature(self) -> dict[str, str]:
        """What must be equal for two evaluations to be comparable."""
        return {
            "evaluator": "fresh",
            "dtype": "bf16" if self._trial.autocast else str(self._trial.dtype).removeprefix("torch."),
            "channels_last": str(self._trial.channels_last),
            "device": self._trial.device.type,
            "processor": _processor(self._trial.device),
            "threads": str(torch.get_num_threads()),
            "batch_size": str(self._batch_size),
            "torch": torch.__version__,
            "trial_samples": str(self._num_trial_samples),
            "recalibration_samples": f"{sum(num_in(inputs) for inputs in self._calibration)} augmented",
            "repair": self._repair_name,
            "metric": self._task.quality_name,
            "seed": str(self._seed),
        }

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        """Build the smaller network and measure it on the trial inputs.

        Args:
            hopeless_below: top-1, percent; the trial stops early once it hardly can reach that (``racing.py``). With
                the user's own metric, which sees all inputs at once, nothing is stopped.

        Raises:
            PolicyError: the policy does not fit the network.
            SearchError: the smaller network fails or gives outputs that are not numbers.
        """
        return self._measured(
            policy,
            self._trial_batches,
            self._trial,
            num_samples=self._num_trial_samples,
            hopeless_below=None if self._task.metric is not None else hopeless_below,
        )

    def confirm(self, policy: Policy) -> Evaluation:
        """The same in fp32 on the search inputs that trials never see.

        Raises:
            PolicyError: the policy does not fit the network.
            SearchError: the smaller network fails or gives outputs that are not numbers.
        """
        rest = self._batches(skip=self._num_trial_samples)
        num_rest = self._search.num_samples - self._num_trial_samples
        return self._measured(policy, rest, self._fp32, num_samples=num_rest)

    def _measured(
        self,
        policy: Policy,
        batches: Iterable[Batch],
        placement: Placement,
        *,
        num_samples: int,
        hopeless_below: float | None = None,
    ) -> Evaluation:
        begin = time.perf_counter()
        plan = make_plan(self._model, self._graph, policy, seed=self._seed, learned=self._learned)
        who = f"policy {policy.digest()}"
        try:
            small = self._built(plan, policy, placement)
            metrics = self._metrics(
                small, batches, placement, num_samples=num_samples, who=who, hopeless_below=hopeless_below
            )
        except SearchError:
            raise
        except Exception as error:
            raise SearchError(f"The network of {who} cannot be measured: {error}") from error
        stopped_early = hopeless_below is not None and (metrics.num_samples or 0) < num_samples
        return Evaluation(metrics=metrics, seconds=time.perf_counter() - begin, stopped_early=stopped_early)

    def _built(self, plan: Plan, policy: Policy, placement: Placement) -> nn.Module:
        small = materialize(self._model, plan).eval()
        if plan.cuts:
            with kept_zeros(small, list(plan.masks)):
                self._repair.mend(small, plan)
        coded = self._coder.code(small, self._graph, policy.storage)
        write_values(small, coded)
        if not plan.is_empty or coded:  # a network that was not changed is measured as it came
            self._repair.settle(small, placement)
        return small

    def _metrics(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        placement: Placement,
        *,
        num_samples: int,
        who: str,
        hopeless_below: float | None = None,
    ) -> Metrics:
        device = placement.device.type
        with torch.no_grad():
            if self._task.metric is not None:
                value = score_over(model, batches, self._task.metric, placement)
                return Metrics(
                    score=value,
                    score_name=self._task.metric_name,
                    num_samples=num_samples,
                    split="search",
                    device=device,
                )
            found = self._accuracy(model, batches, placement, num_samples, hopeless_below)
        if found.num_not_finite:
            raise SearchError(
                f"The network of {who} gives outputs that are not numbers for {found.num_not_finite} of "
                f"{found.num_samples} inputs. Check weights and inputs for NaN and for values that overflow."
            )
        return metrics_of(found, split="search", device=device)

    def _accuracy(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        placement: Placement,
        num_samples: int,
        hopeless_below: float | None,
    ) -> Accuracy:
        def predict(inputs: Inputs) -> object:
            return placement.forward(model, inputs)

        if hopeless_below is None:
            return accuracy_over(predict, batches)
        return raced_accuracy(predict, batches, num_total=num_samples, below=hopeless_below)

    def _batches(self, *, skip: int = 0, first: int | None = None) -> PlacedBatches:
        return PlacedBatches(self._search, self._fp32, batch_size=self._batch_size, skip=skip, first=first)

    def _read_inputs(self, source: Source, num_samples: int) -> list[Inputs]:
        """Batches of one size, distorted as in training, since statistics were measured on such inputs when the weights
        learned to live with them; a shorter last one would count too much in the average."""
        placement = self._fp32
        size = min(self._batch_size, num_samples)
        devices = [placement.device] if placement.device.type == "cuda" else []
        found: list[Inputs] = []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed)  # a user's own loader mixes its samples by the global generator
            for inputs, _ in source.batches(size, shuffle_seed=self._seed, augment=True):
                found.append(placement.put(inputs))
                if sum(num_in(batch) for batch in found) + size > num_samples:
                    break
        if not found:
            raise DataError("The training split has no inputs to prepare trials with. Give at least one.")
        largest = max(num_in(inputs) for inputs in found)
        return [inputs for inputs in found if num_in(inputs) == largest]

    def _uses_bf16(self, dtype: TrialFormat) -> bool:
        is_fp32 = self._fp32.dtype == torch.float32
        if dtype != "auto" or not is_fp32 or self._task.metric is not None or not has_fast_bf16(self._fp32.device):
            return is_fp32 and dtype == "bf16"
        exact, rounded = (
            self._metrics(
                self._model,
                self._trial_batches,
                replace(self._fp32, autocast=autocast),
                num_samples=self._num_trial_samples,
                who="the original",
            ).quality
            for autocast in (False, True)
        )
        return abs(exact - rounded) <= BF16_TOLERANCE + 1e-9


def _check_sizes(source: Source, num_trial_samples: int) -> None:
    if not 1 <= num_trial_samples < source.num_samples:
        raise DataError(
            f"num_trial_samples={num_trial_samples} must lie between 1 and {source.num_samples - 1}, since the search "
            f"split has {source.num_samples} samples and some must be left to confirm the best trials."
        )


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
