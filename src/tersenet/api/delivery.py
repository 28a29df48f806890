"""From a tuned network to what a user holds: packed file, ONNX, measurements on the test split, report.

The test split is read here and nowhere else, once, by the original and the delivered network together.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tersenet import export, graph, pack
from tersenet.api.building import Tuned
from tersenet.api.options import ONNX_FILE, PACKED_FILE, POLICY_FILE, CompressOptions
from tersenet.api.prepare import Prepared
from tersenet.core.files import write_whole
from tersenet.core.metrics import Latency, Metrics
from tersenet.core.policy import ChannelDecision, Clusters, KernelDecision, Linear, Policy, Raw, Storage
from tersenet.core.summary import Check, GroupRow, LayerRow, McNemar
from tersenet.core.version import __version__
from tersenet.data import Data, TestSplit
from tersenet.envs import ChannelSpace, KernelSpace, Space
from tersenet.errors import MissingExtraError, ModelError
from tersenet.graph import ChannelGroup, ModelGraph
from tersenet.measurement import Task, accuracy, compare_latency, measure_quality
from tersenet.measurement.metrics import metrics_of
from tersenet.measurement.size import count_nonzero, paper_ratio
from tersenet.report import mcnemar
from tersenet.transforms import check_cut

CUT_TOLERANCE = 1e-4
"""Largest allowed difference of cut and zeroed network in fp32, over the largest output."""

ONNX_TOLERANCE = 1e-3
"""Largest allowed difference of ONNX and torch, over the largest output."""

CHECK_SAMPLES = 64
"""Search images on which networks are compared output by output."""


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What was written and measured."""

    model: nn.Module
    """Loaded from the packed file."""

    dense: Metrics
    compressed: Metrics
    mcnemar: McNemar | None
    layers: tuple[LayerRow, ...]
    groups: tuple[GroupRow, ...]
    checks: tuple[Check, ...]
    caveats: tuple[str, ...]
    files: dict[str, int]
    paper_ratio: float | None
    """Only where weights are coded."""
    seconds: float


def deliver(
    prepared: Prepared, tuned: Tuned, *, data: Data, folder: Path, provenance: dict[str, str], options: CompressOptions
) -> Delivered:
    """Write the files, load them again and measure what they hold."""
    started = time.perf_counter()
    files = {
        PACKED_FILE: pack.save_packed(
            folder / PACKED_FILE,
            tuned.model,
            plan=tuned.plan,
            policy=tuned.policy,
            provenance=provenance,
            dtype=tuned.dtype,
            norms=tuned.norms,
            coded=tuned.coded,
        ),
        POLICY_FILE: write_whole(folder / POLICY_FILE, appliable(prepared, tuned).model_dump_json(indent=1).encode()),
    }
    model = pack.load(folder / PACKED_FILE, prepared.model)
    inputs = data.example_inputs(CHECK_SAMPLES)
    checks = [_cut_check(prepared, tuned, inputs), _packed_check(tuned.model, model)]
    caveats: list[str] = []
    latencies: dict[str, tuple[Latency, ...]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        onnx_paths = _write_onnx(prepared, tuned, model, folder, Path(scratch), caveats)
        if onnx_paths is not None:
            files[ONNX_FILE] = onnx_paths[1].stat().st_size
            checks.append(_onnx_check(onnx_paths[1], model, inputs))
        latencies = compare_latency(prepared.model, model, data.example_inputs(1), onnx_paths=onnx_paths)
    counted = graph.trace(model, prepared.example_inputs)
    dense, compressed, test = measure_test(prepared.model, model, data.test, task=options.task, device=options.device)
    return Delivered(
        model=model,
        dense=_complete(dense, prepared.graph, prepared.graph.original_bytes, latencies.get("dense", ())),
        compressed=_complete(
            with_nonzero(compressed, model, counted, tuned.policy),
            counted,
            files[PACKED_FILE],
            latencies.get("compressed", ()),
        ),
        mcnemar=test,
        layers=layer_rows(prepared.graph, counted, tuned.policy),
        groups=group_rows(prepared.graph, prepared.space, tuned.plan.kept_channels),
        checks=tuple(checks),
        caveats=tuple(caveats),
        files=files,
        paper_ratio=paper_ratio(prepared.graph, counted, tuned.policy.storage) if tuned.coded else None,
        seconds=time.perf_counter() - started,
    )


def measure_test(
    dense: nn.Module, compressed: nn.Module, test: TestSplit, *, task: Task, device: str
) -> tuple[Metrics, Metrics, McNemar | None]:
    """Quality of both networks on the test split; McNemar's test where both are judged input by input."""
    if task.metric is not None:
        first = measure_quality(dense, test.source, task, split="test", device=device)
        return first, measure_quality(compressed, test.source, task, split="test", device=device), None
    found = [accuracy(model, test.source, device=device) for model in (dense, compressed)]
    metrics = [metrics_of(one, split="test", device=device) for one in found]
    return metrics[0], metrics[1], mcnemar(found[0].correct, found[1].correct)


def run_provenance(data: Data, options: CompressOptions, *, recipe: str, seed: int) -> dict[str, str]:
    """Where a run comes from, as far as it is the same whenever the run is repeated."""
    facts = {
        "tersenet": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "threads": str(torch.get_num_threads()),
        "recipe": recipe,
        "seed": str(seed),
        "workers": str(options.workers),
        "data": data.name,
        "data_sha256": data.content_hash,
    }
    if options.weights is not None:
        facts["weights_sha256"] = options.weights.sha256
    if options.command:
        facts["command"] = options.command
    return facts


def processor() -> str:
    """Name of the processor and the widest instruction set that torch uses on it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def appliable(prepared: Prepared, tuned: Tuned) -> Policy:
    """The policy as ``apply`` can follow it: where it ranks by what was learned in this run, as explicit choices."""
    policy, plan = tuned.policy, tuned.plan
    if not policy.kernels:
        return policy
    weights = {layer.name: layer.weight for layer in prepared.graph.layers}
    kernels = {
        layer: KernelDecision(unit=decision.unit, mask=plan.masks[weights[layer]])
        for layer, decision in policy.kernels.items()
    }
    channels = {group: ChannelDecision(keep=kept) for group, kept in plan.kept_channels.items()}
    return policy.model_copy(update={"channels": channels, "kernels": kernels})


def layer_rows(before: ModelGraph, after: ModelGraph, policy: Policy) -> tuple[LayerRow, ...]:
    """Layers of the original network beside what tracing the delivered one found, and how each is stored."""
    shapes_before = {tensor.name: tensor.shape for tensor in before.tensors}
    shapes_after = {tensor.name: tensor.shape for tensor in after.tensors}
    later = {layer.name: layer for layer in after.layers}
    of_group = {name: group.group_id for group in before.channel_groups for name in group.producers}
    return tuple(
        LayerRow(
            name=layer.name,
            op=layer.op,
            shape_before=shapes_before[layer.weight],
            shape_after=shapes_after[layer.weight],
            macs_before=layer.macs,
            macs_after=later[layer.name].macs,
            params_before=layer.num_params,
            params_after=later[layer.name].num_params,
            group_id=of_group.get(layer.name, ""),
            bytes_before=4 * layer.num_params,
            storage=storage_text(policy.storage.get(layer.name, Raw())),
        )
        for layer in before.layers
    )


def storage_text(form: Storage) -> str:
    """``fp16``, ``16 clusters`` or ``4 bits``."""
    if isinstance(form, Clusters):
        return f"{form.n_clusters} clusters"
    return f"{form.weight_bits} bits" if isinstance(form, Linear) else form.dtype


def group_rows(before: ModelGraph, space: Space | None, kept: Mapping[str, tuple[int, ...]]) -> tuple[GroupRow, ...]:
    """Groups of the original network, and how many channels of each stay.

    Args:
        space: what was allowed to be cut; None if nothing can be.
        kept: channels that stay, by group id; groups that are not named stay whole.
    """
    cuts_nothing = isinstance(space, ChannelSpace) and space.num_decisions == 0
    decided = (
        {before.channel_groups[int(index)].group_id for index in space.indices}
        if isinstance(space, ChannelSpace)
        else set()
    )
    choices = _choices(before, space)
    return tuple(
        GroupRow(
            **choices.get(group.group_id, {}),
            group_id=group.group_id,
            num_channels=group.num_channels,
            num_kept=len(kept[group.group_id]) if group.group_id in kept else group.num_channels,
            producers=group.producers,
            prunable=group.prunable,
            reason=group.reason
            or ("pruning_ratio=0 cuts no channels" if cuts_nothing else _left_whole(group, decided, space)),
        )
        for group in before.channel_groups
    )


def _choices(graph: ModelGraph, space: Space | None) -> dict[str, dict[str, int]]:
    """Between which counts it is decided, by group id."""
    if not isinstance(space, ChannelSpace):
        return {}
    rows = zip(space.indices, space.min_kept, space.max_kept, space.block, strict=True)
    return {
        graph.channel_groups[int(index)].group_id: {
            "min_kept": int(fewest),
            "max_kept": int(most),
            "round_to": int(block),
        }
        for index, fewest, most, block in rows
    }


def _left_whole(group: ChannelGroup, decided: set[str], space: Space | None) -> str:
    if group.group_id in decided or isinstance(space, KernelSpace):
        return ""
    if group.num_channels == 1:
        return "a single channel stays"
    return "tied by residual sums; prune_residual=True would let it be cut"


def with_nonzero(metrics: Metrics, model: nn.Module, counted: ModelGraph, policy: Policy) -> Metrics:
    """The metrics with what is not zero, where something was pruned inside kernels."""
    if not policy.kernels:
        return metrics
    num_nonzero, nonzero_macs = count_nonzero(model, counted)
    return metrics.model_copy(update={"num_nonzero": num_nonzero, "nonzero_macs": nonzero_macs})


def _complete(metrics: Metrics, counted: ModelGraph, size: int, latency: tuple[Latency, ...]) -> Metrics:
    return metrics.model_copy(
        update={
            "macs": counted.macs,
            "num_params": counted.num_params,
            "size_bytes": size,
            "latency": latency,
            "not_counted": counted.not_counted,
        }
    )


def _cut_check(prepared: Prepared, tuned: Tuned, inputs: tuple[Tensor, ...]) -> Check:
    value = check_cut(prepared.model, prepared.graph, tuned.plan, inputs)
    return Check(
        name="cut network equals zeroed network",
        value=value,
        limit=CUT_TOLERANCE,
        passed=value <= CUT_TOLERANCE,
        detail=f"largest difference over largest output, {CHECK_SAMPLES} search images, fp32",
    )


def _packed_check(tuned: nn.Module, loaded: nn.Module) -> Check:
    pairs = zip(_numbers(tuned), _numbers(loaded), strict=True)
    value = max((float(np.abs(a - b).max()) for a, b in pairs if a.size), default=0.0)
    return Check(
        name="packed file holds the tuned network",
        value=value,
        limit=0.0,
        passed=value == 0.0,
        detail="largest difference of any number after loading the file",
    )


def _numbers(model: nn.Module) -> Iterable[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return [tensor.detach().cpu().double().numpy() for tensor in model.state_dict().values()]


def _write_onnx(
    prepared: Prepared, tuned: Tuned, model: nn.Module, folder: Path, scratch: Path, caveats: list[str]
) -> tuple[Path, Path] | None:
    dense_path, path = scratch / "dense.onnx", folder / ONNX_FILE
    single = tuple(tensor[:1] for tensor in prepared.example_inputs)  # where the batch size is fixed, it is 1
    try:
        export.export_onnx(path, model, single, weights_fp16=tuned.dtype == "fp16", coded=tuned.coded)
        export.export_onnx(dense_path, prepared.model, single)
    except (MissingExtraError, ModelError) as error:
        path.unlink(missing_ok=True)  # one of an earlier run would be of another network
        caveats.append(f"No ONNX file was written. {error}")
        return None
    return dense_path, path


def _onnx_check(path: Path, model: nn.Module, inputs: tuple[Tensor, ...]) -> Check:
    found = export.check_onnx(path, model, [inputs])
    return Check(
        name="ONNX model equals torch model",
        value=found.max_relative_difference,
        limit=ONNX_TOLERANCE,
        passed=found.max_relative_difference <= ONNX_TOLERANCE,
        detail=f"largest difference over largest output in onnxruntime, {found.num_samples} search images",
    )
