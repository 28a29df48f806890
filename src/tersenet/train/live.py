"""One network that is trained batch by batch while its channels are switched off and on.

Full-size weights, statistics and momenta are kept. What is trained is a compact copy of the active part, so that time
is really saved. A channel that is switched off is zero in that copy until more than ``rebuild_share`` of the copy is
off, or a channel is switched on: then it is built anew. In the full-size network the slices of channels
that are off stay as they were when they were switched off, momenta included, and go on from there when they are
switched on again.

Health of a channel, a moving average while it is on: ``taylor``, the absolute sum of weight times gradient over the
slices that read the channel, which is how much the loss would change to first order if the channel were scaled away;
or ``scale``, the norm of its filter times the scale of the batch norm behind it, over the mean of its group.

Source: Khatri and Won 2020 (RACS) switch kernels by observed significance and re-activate the healthiest; how is not
public. Taylor: Molchanov et al. 2017, arXiv:1611.06440, eq. 8, summed over the batch before the absolute value is
taken. Scale: Liu et al. 2017 (network slimming), arXiv:1708.06519.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet.core.protocols import FloatArray, State
from tersenet.data.splits import TrainSplit
from tersenet.errors import DataError, SearchError, StudyError, TrainingError
from tersenet.graph import ModelGraph, duplicate, unwrapped
from tersenet.measurement.placement import Batch, num_in, placement_for, placement_of
from tersenet.measurement.task import Task
from tersenet.train.config import TrainConfig
from tersenet.train.health import gates_of, loss_changes, scale_health
from tersenet.train.losses import task_loss
from tersenet.train.optimizer import make_optimizer
from tersenet.train.precision import choose_placement
from tersenet.train.recalibrate import batch_norms
from tersenet.train.schedule import learning_rate_at
from tersenet.train.slices import gather, inside, positions_of, scatter
from tersenet.transforms import materialize, plan_for

BoolArray = NDArray[np.bool_]
HealthName = Literal["taylor", "scale"]

LOWEST_RATE = 0.1
"""Share of the peak learning rate that the schedule does not go below: what is switched late must still recover."""


class LiveSession:
    """Full-size weights and momenta, a compact copy that is trained, and the health of every channel."""

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        train: TrainSplit,
        config: TrainConfig,
        *,
        group_ids: Sequence[str],
        task: Task = Task(),  # noqa: B008 (frozen)
        health: HealthName = "taylor",
        health_decay: float = 0.98,
        rebuild_share: float = 0.1,
    ) -> None:
        """Copy the model and settle how it is run; nothing is trained yet.

        Args:
            model: where training starts; not changed.
            graph: what tracing it found.
            train: what is learned from, augmented as the data set says.
            config: how to train; ``epochs`` is the length of the learning-rate schedule.
            group_ids: the channel groups that may be switched.
            task: the user's own loss; cross-entropy without.
            health: which score ``health`` gives.
            health_decay: weight of the past in the moving averages, per batch.
            rebuild_share: share of the copy's channels that may be off before it is built anew.

        Raises:
            DataError: there are no training samples.
            ModelError: the model fails on them.
            TrainingError: no parameter takes gradients.
        """
        self._graph = graph
        self._train = train.source
        self._config = config
        self._task = task
        self._health_name = health
        self._decay = health_decay
        self._rebuild_share = rebuild_share
        self._home = placement_of(model).device
        self._placement = placement_for(model, config.device)
        self._full = duplicate(unwrapped(model)).to(self._placement.device).train()
        self._momentum = {name: torch.zeros_like(p) for name, p in self._full.named_parameters() if p.requires_grad}
        sizes = {group_id: graph.group(group_id).num_channels for group_id in group_ids}
        self._active = {group_id: np.ones(size, dtype=np.bool_) for group_id, size in sizes.items()}
        self._taylor = {group_id: torch.zeros(size, dtype=torch.float64) for group_id, size in sizes.items()}
        self._epoch, self._place, self._num_seen = 0, 0, 0
        self._stream: Iterator[Batch] | None = None
        self.qualities: list[float] = []
        """What was measured after each round, as told by ``record``."""
        self.num_builds = 0
        """How often a compact copy was made."""
        self._build()
        with self._own_randomness():
            batch = self._next()
            self._stream, self._place = None, 0
            self._placement = choose_placement(self._compact, batch, self._loss, config, self._placement)

    @property
    def compact(self) -> nn.Module:
        """The network that is trained, channels that are off missing or zero; in training mode, and not to be kept."""
        return self._compact

    @property
    def active(self) -> dict[str, BoolArray]:
        """Which channels of each group are on, by group id, copies of shape (num_channels,)."""
        return {group_id: mask.copy() for group_id, mask in self._active.items()}

    @property
    def epochs_done(self) -> float:
        """Passes over the training split so far, by samples seen."""
        return self._num_seen / self._train.num_samples

    def record(self, quality: float) -> None:
        """Keep what was measured after a round."""
        self.qualities.append(quality)

    def network(self) -> nn.Module:
        """A copy of exactly what is active, in eval mode, on the device that the model came on."""
        return self.network_of(self._active)

    def network_of(self, active: Mapping[str, BoolArray]) -> nn.Module:
        """The same of these channels, with the weights they have now or had when they were switched off."""
        self._collect()
        return materialize(self._full, plan_for(self._full, self._graph, _kept(active))).eval().to(self._home)

    def set_active(self, active: Mapping[str, BoolArray]) -> None:
        """Switch channels off and on.

        Args:
            active: for every group of the session, which channels are on, shape (num_channels,).

        Raises:
            SearchError: groups or shapes are not the session's, or a group would have no channel.
        """
        shapes = {group_id: mask.shape for group_id, mask in self._active.items()}
        if {group_id: mask.shape for group_id, mask in active.items()} != shapes:
            raise SearchError(f"active must have one mask per group, {shapes}. Give them all, in the same shapes.")
        empty = [group_id for group_id, mask in active.items() if not mask.any()]
        if empty:
            raise SearchError(f"active switches every channel of group {empty[0]!r} off. Leave at least one on.")
        self._collect()  # by the former masks: what goes off now is kept as it is
        wakes = any((active[group_id] & ~mask).any() for group_id, mask in self._active.items())
        self._active = {group_id: active[group_id].copy() for group_id in self._active}
        num_off = sum(int((self._held[group_id] & ~mask).sum()) for group_id, mask in self._active.items())
        if wakes or num_off > self._rebuild_share * sum(int(mask.sum()) for mask in self._held.values()):
            self._build()
        else:
            self._mask_copy()

    def train(self, num_batches: int) -> float:
        """Train on the next batches; the mean loss over their samples.

        Raises:
            TrainingError: the loss is not finite.
            DataError: the training split yields no usable batches.
        """
        loss_sum, num_trained = 0.0, 0
        skips_single = bool(batch_norms(self._compact)) and self._train.num_samples > 1
        self._compact.train()
        with self._own_randomness():
            for _ in range(num_batches):
                batch = self._next()
                size = num_in(batch[0])
                self._num_seen += size
                if size > 1 or not skips_single:  # batch norms cannot be trained on one sample
                    loss_sum += self._step(batch, self._rate(size)) * size
                    num_trained += size
        if num_trained == 0:
            raise DataError(f"{num_batches} batches had no usable samples. Give batches of at least two.")
        return loss_sum / num_trained

    def health(self) -> dict[str, FloatArray]:
        """Health of every channel, comparable between groups, shape (num_channels,) each; higher is better."""
        if self._health_name == "taylor":
            return {group_id: scores.numpy().copy() for group_id, scores in self._taylor.items()}
        self._collect()
        tensors = _tensors(self._full)
        return {group_id: scale_health(self._graph.group(group_id), tensors) for group_id in self._active}

    def state_dict(self) -> State:
        """Weights, momenta, masks, health, place in the data: everything needed to go on exactly, as copies."""
        self._collect()
        state: State = {f"weights.{name}": _array(tensor) for name, tensor in self._full.state_dict().items()}
        state |= {f"momentum.{name}": _array(tensor) for name, tensor in self._momentum.items()}
        for group_id, mask in self._active.items():
            state[f"active.{group_id}"] = mask.copy()
            state[f"held.{group_id}"] = self._held[group_id].copy()
            state[f"taylor.{group_id}"] = self._taylor[group_id].numpy().copy()
        state["counts"] = np.array([self._epoch, self._place, self._num_seen, self.num_builds])
        state["placement"] = np.array([self._placement.autocast, self._placement.channels_last])
        state["qualities"] = np.array(self.qualities, dtype=np.float64)
        return state

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of another network.
        """
        weights = self._full.state_dict()
        wanted = {f"weights.{name}": tuple(tensor.shape) for name, tensor in weights.items()}
        if {name: array.shape for name, array in state.items() if name.startswith("weights.")} != wanted:
            raise StudyError(
                "The saved live training is of another network. Continue with the network the study began with."
            )
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(torch.from_numpy(np.array(state[f"weights.{name}"])))
            for name, tensor in self._momentum.items():
                tensor.copy_(torch.from_numpy(np.array(state[f"momentum.{name}"])))
        self._active = {group_id: state[f"held.{group_id}"].astype(np.bool_) for group_id in self._active}
        self._taylor = {
            group_id: torch.from_numpy(state[f"taylor.{group_id}"].astype(np.float64)) for group_id in self._active
        }
        self._build()
        self._active = {group_id: state[f"active.{group_id}"].astype(np.bool_) for group_id in self._active}
        self._mask_copy()
        self._epoch, self._place, self._num_seen, self.num_builds = (int(count) for count in state["counts"])
        autocast, channels_last = (bool(flag) for flag in state["placement"])
        self._placement = replace(self._placement, autocast=autocast, channels_last=channels_last)
        self.qualities = [float(quality) for quality in state["qualities"]]
        self._stream = None

    def _build(self) -> None:
        """Make the compact copy of what is active, with an optimiser of its own."""
        self._held = self.active
        plan = plan_for(self._full, self._graph, _kept(self._held))
        self._held_at = positions_of(plan)
        self._compact = materialize(self._full, plan).train()
        self._parameters = dict(self._compact.named_parameters())
        self._optimizer = make_optimizer(self._compact, self._config)
        for name, momentum in self._momentum.items():
            buffer = gather(momentum, self._held_at.get(name, {}))
            self._optimizer.state[self._parameters[name]]["momentum_buffer"] = buffer
        self.num_builds += 1
        self._mask_copy()

    def _mask_copy(self) -> None:
        """Zero what is off in the compact copy, and see to it that it stays so."""
        chosen = self._active_at()
        self._masks: dict[str, Tensor] = {}
        tensors = _tensors(self._compact)
        statistics = {info.name for info in self._graph.tensors if info.is_statistic}
        with torch.no_grad():
            for name, held in self._with_whole(chosen).items():
                mask = inside(held, chosen[name], tensors[name].ndim).to(tensors[name].device)
                if bool(mask.all()):
                    continue
                if name in self._parameters:
                    self._masks[name] = mask
                    tensors[name].masked_fill_(~mask, 0.0)
                    if name in self._momentum:
                        self._optimizer.state[self._parameters[name]]["momentum_buffer"].masked_fill_(~mask, 0.0)
                elif name in statistics:
                    tensors[name].masked_fill_(~mask, 1.0 if name.endswith("running_var") else 0.0)
        self._gates = {
            group_id: gates_of(self._graph.group(group_id), np.flatnonzero(mask), self._held_at)
            for group_id, mask in self._active.items()
        }

    def _active_at(self) -> dict[str, dict[int, Tensor]]:
        return positions_of(plan_for(self._full, self._graph, _kept(self._active)))

    def _with_whole(self, chosen: Mapping[str, Mapping[int, Tensor]]) -> dict[str, dict[int, Tensor]]:
        """Positions in the compact copy of every axis in ``chosen``, also where the copy holds all of them."""
        shapes = {info.name: info.shape for info in self._graph.tensors}
        return {
            name: {axis: self._held_at.get(name, {}).get(axis, torch.arange(shapes[name][axis])) for axis in positions}
            for name, positions in chosen.items()
        }

    def _collect(self) -> None:
        """Write the active part of the compact copy into the full-size network."""
        full, chosen = _tensors(self._full), self._active_at()
        with torch.no_grad():
            for name, tensor in _tensors(self._compact).items():
                held = self._held_at.get(name, {})
                where = None
                if name in chosen:
                    axes = self._with_whole({name: chosen[name]})[name]
                    where = inside(axes, chosen[name], tensor.ndim).to(tensor.device)
                scatter(tensor.detach(), full[name], held, where=where)
                if name in self._momentum:
                    buffer = self._optimizer.state[self._parameters[name]]["momentum_buffer"]
                    scatter(buffer, self._momentum[name], held, where=where)

    def _step(self, batch: Batch, rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        outputs = self._placement.forward(self._compact, self._placement.put(batch[0]))
        loss = self._loss(outputs, self._placement.put_targets(batch[1]))
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} after {self.epochs_done:.2f} epochs of live training at learning rate "
                f"{rate:.4g}. Lower live_learning_rate, and check the inputs for values that are not numbers."
            )
        self._note_health()
        for name, mask in self._masks.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.masked_fill_(~mask, 0.0)
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._compact.parameters(), self._config.grad_clip)
        self._optimizer.step()
        return value

    def _note_health(self) -> None:
        """Move the averages of the channels that are on towards what this batch says."""
        for group_id, changes in loss_changes(self._gates, self._parameters).items():
            on = torch.from_numpy(self._active[group_id])
            self._taylor[group_id][on] = torch.lerp(changes, self._taylor[group_id][on], self._decay)

    def _rate(self, size: int) -> float:
        config = self._config
        moment = (self._num_seen - size / 2) / self._train.num_samples
        rate = learning_rate_at(
            moment, highest=config.learning_rate, epochs=config.epochs, warmup_epochs=config.warmup_epochs
        )
        return rate if moment < config.warmup_epochs else max(rate, LOWEST_RATE * config.learning_rate)

    def _next(self) -> Batch:
        """The next batch; every one of them begins from a state of the global generator that is its own."""
        while True:
            if self._stream is None:
                seed = self._reseed(0)
                self._stream = iter(self._train.batches(self._config.batch_size, shuffle_seed=seed, augment=True))
                for place in range(self._place):  # after an interruption
                    self._reseed(place + 1)
                    next(self._stream)
            self._reseed(self._place + 1)
            batch = next(self._stream, None)
            if batch is not None:
                self._place += 1
                return batch
            if self._place == 0:
                raise DataError("The training split yields no batches. Give it at least one sample.")
            self._epoch, self._place, self._stream = self._epoch + 1, 0, None

    def _reseed(self, place: int) -> int:
        seed = int(np.random.SeedSequence((self._config.seed, self._epoch, place)).generate_state(1)[0])
        torch.manual_seed(seed)
        return seed

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        devices = [self._placement.device] if self._placement.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield

    def _loss(self, outputs: object, targets: object) -> Tensor:
        return task_loss(outputs, targets, task=self._task, label_smoothing=self._config.label_smoothing)


def _kept(active: Mapping[str, BoolArray]) -> dict[str, tuple[int, ...]]:
    """Channels that are on, for the groups where not all are."""
    return {group_id: tuple(np.flatnonzero(mask).tolist()) for group_id, mask in active.items() if not mask.all()}


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, tied ones under their first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _array(tensor: Tensor) -> NDArray[np.generic]:
    """As numpy, which has no bfloat16; float32 holds its values exactly."""
    plain = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    found: NDArray[np.generic] = plain.cpu().numpy().copy()
    return found
