"""One network that is trained batch by batch while its channels, or its 2-D kernels, are switched off and on.

Full-size weights, statistics and momenta are kept. What is trained is a compact copy of the active part, so that time
is really saved. A channel that is switched off is zero in that copy until more than ``rebuild_share`` of the copy is
off, or a channel is switched on: then it is built anew. In the full-size network the slices of channels
that are off stay as they were when they were switched off, momenta included, and go on from there when they are
switched on again.

What is switched are channels, or 2-D kernels inside layers (``train/units.py``). A copy can be smaller only by whole
channels: a kernel that is off is zero in it, and saves time only once nothing that is on writes or reads its channel.

Health of a unit is a moving average of what each batch says while it is on (``taylor``), or norms (``scale``).

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
from tersenet.train.live_stream import BatchStream
from tersenet.train.losses import task_loss
from tersenet.train.memory import enough_memory
from tersenet.train.optimizer import make_optimizer
from tersenet.train.precision import choose_placement
from tersenet.train.recalibrate import batch_norms
from tersenet.train.schedule import learning_rate_at
from tersenet.train.slices import gather, inside, positions_of, scatter
from tersenet.train.units import BoolArray, ChannelUnits, KernelUnits, Units, of_cut
from tersenet.transforms import materialize, plan_for

HealthName = Literal["taylor", "scale"]

LOWEST_RATE = 0.1
"""Share of the peak learning rate that the schedule does not go below: what is switched late must still recover."""


class LiveSession:
    """Full-size weights and momenta, a compact copy that is trained, and the health of every unit."""

    def __init__(
        self,
        model: nn.Module,
        graph: ModelGraph,
        train: TrainSplit,
        config: TrainConfig,
        *,
        group_ids: Sequence[str] = (),
        kernels_of: Sequence[str] = (),
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
            kernels_of: instead of these, layers whose 2-D kernels may be switched.
            task: the user's own loss; cross-entropy without.
            health: which score ``health`` gives.
            health_decay: weight of the past in the moving averages, per batch.
            rebuild_share: share of the copy's channels that may be off before it is built anew.

        Raises:
            DataError: there are no training samples.
            ModelError: the model fails on them.
            TrainingError: no parameter takes gradients.
            UnknownNameError: there is no such layer.
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
        self._units: Units = KernelUnits(graph, kernels_of) if kernels_of else ChannelUnits(graph, group_ids)
        self._active = {name: np.ones(size, dtype=np.bool_) for name, size in self._units.sizes.items()}
        self._taylor = {name: torch.zeros(size, dtype=torch.float64) for name, size in self._units.sizes.items()}
        self._stream = BatchStream(self._train, batch_size=config.batch_size, seed=config.seed)
        self.qualities: list[float] = []
        """What was measured after each round, as told by ``record``."""
        self.num_builds = 0
        """How often a compact copy was made."""
        self._channels = self._units.channels(self._active)
        self._build()
        with self._own_randomness():
            batch = self._stream.peek()
            self._placement = choose_placement(self._compact, batch, self._loss, config, self._placement)

    @property
    def compact(self) -> nn.Module:
        """The network that is trained, what is off missing or zero; in training mode, and not to be kept."""
        return self._compact

    @property
    def active(self) -> dict[str, BoolArray]:
        """Which units are on, by channel group or by layer, copies of shape (units,)."""
        return {name: mask.copy() for name, mask in self._active.items()}

    @property
    def autocast(self) -> bool:
        """Whether it trains in bfloat16."""
        return self._placement.autocast

    @property
    def epochs_done(self) -> float:
        """Passes over the training split so far, by samples seen."""
        return self._stream.num_seen / self._train.num_samples

    def record(self, quality: float) -> None:
        """Keep what was measured after a round."""
        self.qualities.append(quality)

    def network(self) -> nn.Module:
        """A copy of exactly what is active, in eval mode, on the device that the model came on."""
        return self.network_of(self._active)

    def network_of(self, active: Mapping[str, BoolArray]) -> nn.Module:
        """The same of these units, with the weights they have now or had when they were switched off."""
        self._collect()
        kept, inside_layers = _kept(self._units.channels(active)), self._units.weights(active)
        plan = plan_for(self._full, self._graph, kept, inside_layers)
        return materialize(self._full, plan).eval().to(self._home)

    def set_active(self, active: Mapping[str, BoolArray]) -> None:
        """Switch units off and on.

        Args:
            active: for every group, or layer, of the session which units are on, shape (units,).

        Raises:
            SearchError: names or shapes are not the session's, or nothing of a group or layer would be left.
        """
        shapes = {name: mask.shape for name, mask in self._active.items()}
        if {name: mask.shape for name, mask in active.items()} != shapes:
            raise SearchError(f"active must have one mask per {self._units.place}, {shapes}. Give them all, as long.")
        empty = [name for name, mask in active.items() if not mask.any()]
        if empty:
            raise SearchError(
                f"active switches every {self._units.unit} of {self._units.place} {empty[0]!r} off. Leave at least "
                "one on."
            )
        self._collect()  # by the former masks: what goes off now is kept as it is
        wakes = any((active[name] & ~mask).any() for name, mask in self._active.items())
        self._active = {name: active[name].copy() for name in self._active}
        self._channels = self._units.channels(self._active)
        num_off = sum(int((self._held[group_id] & ~mask).sum()) for group_id, mask in self._channels.items())
        if wakes or num_off > self._rebuild_share * sum(int(mask.sum()) for mask in self._held.values()):
            self._build()
        else:
            self._mask_copy()

    def train(self, num_batches: int) -> float:
        """Train on the next batches; the mean loss over their samples.

        Raises:
            TrainingError: the loss is not finite, or memory runs out.
            DataError: the training split yields no usable batches.
        """
        loss_sum, num_trained = 0.0, 0
        skips_single = bool(batch_norms(self._compact)) and self._train.num_samples > 1
        self._compact.train()
        with self._own_randomness():
            for _ in range(num_batches):
                batch = self._stream.next()
                size = num_in(batch[0])
                if size > 1 or not skips_single:  # batch norms cannot be trained on one sample
                    with enough_memory(batch[0]):
                        loss_sum += self._step(batch, self._rate(size)) * size
                    num_trained += size
        if num_trained == 0:
            raise DataError(f"{num_batches} batches had no usable samples. Give batches of at least two.")
        return loss_sum / num_trained

    def health(self) -> dict[str, FloatArray]:
        """Health of every unit, comparable between groups or layers, shape (units,) each; higher is better."""
        if self._health_name == "taylor":
            return {group_id: scores.numpy().copy() for group_id, scores in self._taylor.items()}
        self._collect()
        return self._units.scale(_tensors(self._full))

    def state_dict(self) -> State:
        """Weights, momenta, masks, health, place in the data: everything needed to go on exactly, as copies."""
        self._collect()
        state: State = {f"weights.{name}": _array(tensor) for name, tensor in self._full.state_dict().items()}
        state |= {f"momentum.{name}": _array(tensor) for name, tensor in self._momentum.items()}
        state |= {f"held.{group_id}": mask.copy() for group_id, mask in self._held.items()}
        for name, mask in self._active.items():
            state[f"active.{name}"] = mask.copy()
            state[f"taylor.{name}"] = self._taylor[name].numpy().copy()
        stream = self._stream
        state["counts"] = np.array([stream.epoch, stream.place, stream.num_seen, self.num_builds])
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
        self._active = {name: state[f"active.{name}"].astype(np.bool_) for name in self._active}
        self._taylor = {name: torch.from_numpy(state[f"taylor.{name}"].astype(np.float64)) for name in self._active}
        self._channels = self._units.channels(self._active)
        self._build({group_id: state[f"held.{group_id}"].astype(np.bool_) for group_id in self._channels})
        epoch, place, num_seen, self.num_builds = (int(count) for count in state["counts"])
        self._stream.put_back(epoch, place, num_seen)
        autocast, channels_last = (bool(flag) for flag in state["placement"])
        self._placement = replace(self._placement, autocast=autocast, channels_last=channels_last)
        self.qualities = [float(quality) for quality in state["qualities"]]

    def _build(self, held: Mapping[str, BoolArray] | None = None) -> None:
        """Make the compact copy of the channels that are on, or of these, with an optimiser of its own."""
        self._held = {group_id: mask.copy() for group_id, mask in (held or self._channels).items()}
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
        self._on = self._where_on()
        self._masks: dict[str, Tensor] = {}
        tensors = _tensors(self._compact)
        statistics = {info.name for info in self._graph.tensors if info.is_statistic}
        with torch.no_grad():
            for name, mask in self._on.items():
                if bool(mask.all()):
                    continue
                if name in self._parameters:
                    self._masks[name] = mask
                    tensors[name].masked_fill_(~mask, 0.0)
                    if name in self._momentum:
                        self._optimizer.state[self._parameters[name]]["momentum_buffer"].masked_fill_(~mask, 0.0)
                elif name in statistics:
                    tensors[name].masked_fill_(~mask, 1.0 if name.endswith("running_var") else 0.0)
        self._units.watch(self._active, self._held_at)

    def _where_on(self) -> dict[str, Tensor]:
        """Which entries of the copy's tensors are on, broadcastable to them; tensors that are not named are whole."""
        chosen = positions_of(plan_for(self._full, self._graph, _kept(self._channels)))
        tensors, shapes = _tensors(self._compact), {info.name: info.shape for info in self._graph.tensors}
        found: dict[str, Tensor] = {}
        for name, positions in chosen.items():
            held = self._held_at.get(name, {})
            axes = {axis: held.get(axis, torch.arange(shapes[name][axis])) for axis in positions}
            found[name] = inside(axes, positions, tensors[name].ndim).to(tensors[name].device)
        for name, mask in self._units.weights(self._active).items():
            own = of_cut(torch.from_numpy(mask), self._held_at.get(name, {})).to(tensors[name].device)
            found[name] = found[name] & own if name in found else own
        return found

    def _collect(self) -> None:
        """Write what is on in the compact copy into the full-size network."""
        full = _tensors(self._full)
        with torch.no_grad():
            for name, tensor in _tensors(self._compact).items():
                held, where = self._held_at.get(name, {}), self._on.get(name)
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
        """Move the averages of the units that are on towards what this batch says."""
        for name, changes in self._units.loss_changes(self._parameters).items():
            on = torch.from_numpy(self._active[name])
            self._taylor[name][on] = torch.lerp(changes, self._taylor[name][on], self._decay)

    def _rate(self, size: int) -> float:
        config = self._config
        moment = (self._stream.num_seen - size / 2) / self._train.num_samples
        rate = learning_rate_at(
            moment, highest=config.learning_rate, epochs=config.epochs, warmup_epochs=config.warmup_epochs
        )
        return rate if moment < config.warmup_epochs else max(rate, LOWEST_RATE * config.learning_rate)

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
