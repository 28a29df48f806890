"""What a run found out, and which bounds it missed, as one summary."""

from __future__ import annotations

from tersenet.api.building import Tuned, TuningJob
from tersenet.api.delivery import Delivered
from tersenet.api.flow import flow_nodes
from tersenet.api.int8 import Int8Delivered
from tersenet.api.options import INT8_FILE, PACKED_FILE
from tersenet.api.searching import Found
from tersenet.api.stored import storage_rows
from tersenet.core.summary import RunSummary
from tersenet.core.version import __version__
from tersenet.envs import KernelSpace
from tersenet.recipes.khatri2020 import switched_of


def missed_bounds(job: TuningJob, tuned: Tuned, delivered: Delivered) -> list[str]:
    """Bounds of the target that the delivered network does not keep, each as a sentence."""
    if job.target is None:
        return []
    limits = job.target.limits({limit.kind: limit.original for limit in job.prepared.costs})
    measured = {
        "macs": delivered.compressed.macs,
        "params": delivered.compressed.num_params,
        "size_bytes": delivered.compressed.size_bytes,
    }
    missed = [
        f"The target allows {maximum:,.0f} {kind}, the delivered network has {measured[kind]:,}."
        for kind, maximum in limits.items()
        if (measured[kind] or 0) > maximum
    ]
    if not job.keeps_drop(tuned):
        missed.append(
            f"max_top1_drop={job.target.max_top1_drop} is not kept: {tuned.metrics.quality:.2f} on the search split, "
            f"the reference is {job.reference:.2f}."
        )
    return missed


def summarize(
    job: TuningJob, tuned: Tuned, found: Found | None, delivered: Delivered, int8: Int8Delivered
) -> RunSummary:
    """Everything the report shows."""
    prepared, options = job.prepared, job.options
    seconds = {"trace": prepared.seconds, "finetune": tuned.seconds, "measure": delivered.seconds}
    rules = {} if options.rules is None else {"rules": options.rules.model_dump(mode="json")}
    files = dict(delivered.files)
    if int8.file is not None:
        seconds["int8"] = int8.seconds
        files[INT8_FILE] = int8.file.size_bytes
    if found is not None:
        seconds |= {"search": found.search_seconds, "confirm": found.confirm_seconds}
    return RunSummary(
        version=__version__,
        model=options.model_name,
        data=job.data.name,
        recipe=job.provenance["recipe"],
        recipe_config=prepared.config.model_dump(mode="json") | rules,
        staircase=prepared.staircase,
        seed=job.seed,
        workers=options.workers,
        target=job.target,
        policy=tuned.policy,
        dense=delivered.dense,
        compressed=delivered.compressed,
        dense_search=found.dense.metrics if found else None,
        untuned=found.untuned.metrics if found else None,
        tuned_search=tuned.metrics,
        original_bytes=prepared.graph.original_bytes,
        paper_ratio=delivered.paper_ratio,
        int8=int8.file,
        score_name=options.task.quality_name,
        mcnemar=delivered.mcnemar,
        layers=delivered.layers,
        groups=delivered.groups,
        flow=flow_nodes(prepared.graph),
        storage=storage_rows(job.folder / PACKED_FILE, prepared.model, prepared.graph, tuned.policy),
        trials=found.trials if found else (),
        confirmed=found.confirmed if found else (),
        rounds=found.rounds if found else (),
        epochs=tuned.epochs,
        first_stage=found.first_stage if found else None,
        checks=delivered.checks,
        caveats=(*_caveats(job, tuned, found, delivered), *int8.caveats),
        seconds=seconds,
        files=files,
        provenance={**job.provenance, **_trials_provenance(found)},
    )


def _trials_provenance(found: Found | None) -> dict[str, str]:
    """Where trials were measured; a search that was done may be tuned elsewhere."""
    facts = {} if found is None else found.measured_by
    names = ("device", "processor", "threads", "dtype", "torch")
    return {f"trials_{name}": facts[name] for name in names if name in facts}


def _caveats(job: TuningJob, tuned: Tuned, found: Found | None, delivered: Delivered) -> list[str]:
    caveats = missed_bounds(job, tuned, delivered)
    caveats += [f"Check failed: {check.name} ({check.value:.2e})." for check in delivered.checks if not check.passed]
    if job.options.weights_saw_search:
        caveats.append(
            "The original weights were trained on images of the search split (or nothing says that they were not), so "
            "accuracies on that split are optimistic; differences between policies are still fair."
        )
    if found is not None:
        caveats += _control_caveats(job, found)
    if found is not None and found.rounds:
        caveats.append(_switched_caveat(job, found))
    if not tuned.tuning_helped:
        caveats.append(
            "No epoch of fine-tuning was as good as the network before it, which was kept. Lower "
            "finetune_learning_rate, or give more epochs."
        )
    caveats.append("Latency was measured on this machine and was not part of the search.")
    if tuned.coded:
        caveats.append(
            "Batch norms are stored as one scale and one shift per channel, so the delivered network computes the same "
            "in eval mode only: to train further, go on from the original weights."
        )
    if delivered.compressed.nonzero_macs is not None:
        caveats.append(
            f"Weights inside kernels were pruned: of {delivered.compressed.macs:,} MACs that a dense runtime does, "
            f"{delivered.compressed.nonzero_macs:,} have a weight that is not zero; the others save bytes, not time."
        )
    if delivered.compressed.not_counted:
        caveats.append(f"MACs leave out these operators: {', '.join(delivered.compressed.not_counted)}.")
    if tuned.dtype == "fp32" and job.prepared.config.storage == "auto":
        caveats.append(
            "Storing weights as fp16 would have cost more than 0.1 points on the search split: stored as fp32."
        )
    return [*caveats, *job.prepared.notes, *delivered.caveats]


def _switched_caveat(job: TuningJob, found: Found) -> str:
    """How many units the delivered policy keeps; they are what papers count."""
    prepared = job.prepared
    sizes = switched_of(prepared.graph, prepared.space).sizes
    kept = sum(int(mask.sum()) for mask in switched_of(prepared.graph, prepared.space).masks(found.winner).values())
    unit = "2-D kernel" if isinstance(prepared.space, KernelSpace) else "filter with what is coupled to it"
    return f"Switched while training, unit {unit}: {kept:,} of {sum(sizes.values()):,} are on."


def _control_caveats(job: TuningJob, found: Found) -> list[str]:
    recipe, deliver = job.prepared.recipe.name, job.options.deliver
    if deliver is not None and deliver != recipe:
        return [f"As asked, the policy of the control {deliver} was tuned and delivered, not that of {recipe}."]
    own = max(entry.confirmed_quality for entry in found.confirmed if entry.method == recipe)
    better = [entry for entry in found.confirmed if entry.method != recipe and entry.confirmed_quality > own]
    return [
        f"The control {entry.method} was confirmed at {entry.confirmed_quality:.2f}, above the {own:.2f} of {recipe}."
        + (f" deliver={entry.method} tunes it instead." if entry.method in job.options.controls else "")
        for entry in better
    ]
