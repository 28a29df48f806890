"""The whole outcome of a run as data: what the report draws and what ``result.json`` holds."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from tersenet.core.metrics import Latency, Metrics
from tersenet.core.policy import Policy
from tersenet.core.staircase import Staircase
from tersenet.core.target import Target


class GroupRow(BaseModel, frozen=True, extra="forbid"):
    """One coupled channel group before and after."""

    group_id: str
    num_channels: int
    num_kept: int
    producers: tuple[str, ...]
    prunable: bool
    reason: str
    """Why it could not be cut; empty if it could."""
    min_kept: int | None = None
    """Fewest channels that may stay; None where it is not decided how many do."""
    max_kept: int | None = None
    """Most channels that may stay: fewer than all where a rule fixes the share."""
    round_to: int | None = None
    """Step between counts."""


class LayerRow(BaseModel, frozen=True, extra="forbid"):
    """One convolution or linear layer before and after."""

    name: str
    op: str
    shape_before: tuple[int, ...]
    """Shape of the weight."""
    shape_after: tuple[int, ...]
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    group_id: str
    """Group of its output channels; empty if none."""
    bytes_before: int | None = None
    """Its numbers in the original network, as fp32."""
    storage: str = "fp32"
    """How its weight is stored: ``fp32``, ``fp16``, ``16 clusters`` or ``4 bits``."""


class FlowNode(BaseModel, frozen=True, extra="forbid"):
    """One stop of the data on its way through the original network."""

    kind: Literal["input", "layer", "join"]
    """An input of the network, a call of a layer, or an operator where several values meet."""
    name: str
    """Of the layer, or of the operator (``add``, ``cat``)."""
    reads: tuple[int, ...]
    """Positions of those whose values it reads, ascending, all before its own."""


StorageKind = Literal["raw", "clusters", "linear", "rest"]


class StorageRow(BaseModel, frozen=True, extra="forbid"):
    """Bytes of one layer in the packed file; all rows together are the whole file."""

    name: str
    """Of the layer; the last two rows are everything in no layer, and what describes the file."""
    kind: StorageKind
    form: str
    """As in ``LayerRow.storage``; empty for the last two rows."""
    bytes_before: int
    """Its numbers in the original network, as fp32."""
    bytes_after: float
    """In the packed file; in eighths, where entropy-coded streams of several layers share a byte."""


class TrialPoint(BaseModel, frozen=True, extra="forbid"):
    """One measured policy."""

    index: int
    """Number within its method, from 0."""
    method: str
    """Recipe that proposed it."""
    phase: str
    """``warmup`` (random proposals), ``learned`` (proposed by the trained agent), ``control``, or ``probe`` (only
    measures, does not keep the budget, cannot be chosen)."""
    reward: float
    quality: float
    """Trial accuracy in percent, or the user's score, un-tuned, on the trial images."""
    costs: dict[str, float]
    """Cost of the policy over the original cost, by kind (macs, params, size_bytes)."""
    seconds: float


class EpochPoint(BaseModel, frozen=True, extra="forbid"):
    """One epoch of training."""

    epoch: int
    """From 1."""
    train_loss: float
    quality: float
    """On the search split."""
    learning_rate: float
    seconds: float


class Confirmed(BaseModel, frozen=True, extra="forbid"):
    """A policy measured again in fp32 on search images that no trial saw."""

    method: str
    index: int
    trial_quality: float
    confirmed_quality: float
    num_samples: int
    costs: dict[str, float]
    policy: Policy
    """What was measured; ``tersenet apply`` builds it."""


class RoundPoint(BaseModel, frozen=True, extra="forbid"):
    """One round of a network whose channels, or 2-D kernels, were switched while it trained.

    Which of them, the recipe's ``unit`` says (``RunSummary.recipe_config``).
    """

    index: int
    """From 0."""
    exploring: float
    """Share of random actions (epsilon)."""
    quality: float
    """On the trial images, after the round."""
    reference: float
    """Of the original network on the same images."""
    cost: float
    """Cost over the original cost, of the kind that was made small."""
    num_on: dict[str, int]
    """Units that were on, by group, or by layer where they are kernels."""
    num_off: int
    """Units that the round switched off."""
    num_woken: int
    """Units that it switched on again."""
    num_settled: int
    """Units, on or off, that no later round switched."""
    seconds: float


class McNemar(BaseModel, frozen=True, extra="forbid"):
    """Exact McNemar test of the two networks on the same test inputs."""

    only_dense_right: int
    only_compressed_right: int
    p_value: float


class Check(BaseModel, frozen=True, extra="forbid"):
    """One thing that was verified by running it."""

    name: str
    """For example ``cut network equals zeroed network``."""
    value: float
    """What was measured."""
    limit: float
    """What it may be at most."""
    passed: bool
    detail: str = ""


class Int8File(BaseModel, frozen=True, extra="forbid"):
    """An ONNX file of the delivered network with 8-bit integers inside: for speed; the packed file is for size."""

    size_bytes: int
    fp32_size_bytes: int
    """Of the delivered network as a plain fp32 ONNX file."""
    dense_size_bytes: int
    """Of the original network as one."""
    num_int8_layers: int
    """Convolutions and linear layers whose weights are integers."""
    fp32_layers: tuple[str, ...]
    """Weights that stayed fp32, by their names in the file."""
    calibration_samples: int
    """Training samples that the ranges of activations were taken from."""
    num_samples: int
    """Search samples on which the file was compared with torch."""
    agreement: float | None
    """Percent of them that get the class which torch gives; None where outputs are not classes."""
    top1: float | None
    """Of the file in onnxruntime on these samples, percent; None with a metric of the user's own."""
    torch_top1: float | None
    """Of the delivered network in torch on the same samples."""
    max_relative_difference: float
    """Largest difference of an output from torch's, over the largest output."""
    dense_latency: Latency
    """The original network as a plain fp32 file, timed in turns with the two below."""
    fp32_latency: Latency
    """The delivered network as a plain fp32 file."""
    latency: Latency
    """The int8 file."""
    dense_cpu_ms: float
    """Processor time of one pass, median, milliseconds: what is left of latency where other programs run as well."""
    fp32_cpu_ms: float
    cpu_ms: float


class StageSummary(BaseModel, frozen=True, extra="forbid"):
    """What the first stage of a recipe with two found out; its network is the second one's original."""

    policy: Policy
    untuned: Metrics
    """The winner before fine-tuning, on the held-back search images."""
    tuned: Metrics
    """After fine-tuning, on the whole search split; costs and bytes included."""
    trials: tuple[TrialPoint, ...]
    confirmed: tuple[Confirmed, ...]
    epochs: tuple[EpochPoint, ...]
    seconds: dict[str, float]
    """Wall-clock seconds: search, confirm, finetune."""


class RunSummary(BaseModel, frozen=True, extra="forbid"):
    """Everything a run found out."""

    version: str
    """Of tersenet."""
    model: str
    data: str
    recipe: str
    recipe_config: dict[str, object]
    staircase: Staircase | None = None
    """What ``round_to="auto"`` found; ``recipe_config`` has the number."""
    seed: int
    workers: int
    target: Target | None
    """None for ``apply``, where the policy was given."""
    policy: Policy
    dense: Metrics
    """The original network, on the test split."""
    compressed: Metrics
    """The delivered network, on the test split."""
    dense_search: Metrics | None
    """The original network on the held-back search images."""
    untuned: Metrics | None
    """The winner before fine-tuning, on the held-back search images: the only source of ``top1_untuned``."""
    tuned_search: Metrics | None = None
    """The delivered network on the whole search split, from which the best epoch was chosen."""
    original_bytes: int
    """4 x (parameters + norm statistics)."""
    paper_ratio: float | None = None
    """The accounting of papers, where weights are coded: 32 bits per original convolution weight over the bits of the
    indices or integers of those that are left, floor(log2 k) each; no codebooks, no other layers. Never to be mixed
    with bytes."""
    int8: Int8File | None = None
    """Only where it was asked for."""
    score_name: str
    """``top-1`` or the name of the user's metric."""
    mcnemar: McNemar | None
    layers: tuple[LayerRow, ...]
    groups: tuple[GroupRow, ...]
    flow: tuple[FlowNode, ...] = ()
    """The original network's data flow, in order of execution."""
    storage: tuple[StorageRow, ...] = ()
    """Where the bytes of the packed file go."""
    trials: tuple[TrialPoint, ...]
    confirmed: tuple[Confirmed, ...]
    rounds: tuple[RoundPoint, ...] = ()
    """Only of a recipe that switches channels or kernels while the network trains."""
    epochs: tuple[EpochPoint, ...]
    first_stage: StageSummary | None = None
    """Of recipes with two stages; trials, confirmed and ``untuned`` are those of the second."""
    checks: tuple[Check, ...]
    caveats: tuple[str, ...]
    """What a reader must know, each a full sentence."""
    seconds: dict[str, float]
    """Wall-clock seconds by stage: trace, search, confirm, finetune, measure."""
    files: dict[str, int]
    """Name of each delivered file to its bytes."""
    provenance: dict[str, str]
    """Versions, processor, threads, hashes of data and weights, command."""


class Reachable(BaseModel, frozen=True, extra="forbid"):
    """What a cost can be brought to by cutting channels alone."""

    kind: str
    """macs, params or size_bytes."""
    original: float
    smallest: float
    """With every prunable group at its smallest, absolute."""
    bound: float | None
    """Upper bound of the target, absolute; None if the target does not bound this cost."""

    @property
    def is_reachable(self) -> bool:
        """Whether the bound, if any, can be kept."""
        return self.bound is None or self.smallest <= self.bound


class Inspection(BaseModel, frozen=True, extra="forbid"):
    """What is there before anything is spent: layers, groups, what each target could reach, how long it would take."""

    model: str
    data: str
    macs: int
    num_params: int
    original_bytes: int
    layers: tuple[LayerRow, ...]
    """``*_after`` equals ``*_before`` here."""
    groups: tuple[GroupRow, ...]
    reachable: tuple[Reachable, ...]
    not_counted: tuple[str, ...]
    search_seconds: float | None
    """Predicted from one timed trial; None if no data was given."""
    finetune_seconds: float | None
    """Predicted from one timed step; None if no data was given."""
    notes: tuple[str, ...]
    staircase: Staircase | None = None
    """What ``round_to="auto"`` found, where that was asked for."""
