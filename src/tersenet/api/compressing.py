"""The main job: from a trained network, data and a target to a smaller network with the evidence."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from tersenet import recipes
from tersenet.agents import write_agent
from tersenet.api.building import CHECKPOINTS, Tuned, TuningJob
from tersenet.api.delivery import deliver, run_provenance
from tersenet.api.folders import make_folder
from tersenet.api.int8 import check_export, deliver_int8, try_export
from tersenet.api.live import compress_live
from tersenet.api.options import AGENT_FILE, STUDY_FILE, CompressOptions, Result
from tersenet.api.prepare import STAIRCASE, Prepared, make_evaluator, prepare
from tersenet.api.searching import Found, search
from tersenet.api.storing import compress_storage
from tersenet.api.summing_up import missed_bounds, summarize
from tersenet.api.tuning import tune_until_kept
from tersenet.core.files import remove_leftovers
from tersenet.core.policy import Policy
from tersenet.core.registry import unknown_name
from tersenet.core.target import Target
from tersenet.core.version import __version__
from tersenet.data import Data
from tersenet.errors import MissingExtraError, TargetError
from tersenet.measurement import measure_quality
from tersenet.models import weights_hash
from tersenet.recipes import TUNING
from tersenet.report import write_report
from tersenet.search import Study


def compress(
    model: nn.Module,
    *,
    data: Data,
    target: Target,
    recipe: str = "he2018",
    seed: int,
    options: CompressOptions | None = None,
) -> Result:
    """Search a policy within the target, build the smaller network, fine-tune it, write and measure it.

    The given model is left as it was. With ``options.out`` the run is durable: the same call goes on where an
    interrupted one stopped.

    Args:
        model: a trained network; any ``nn.Module`` that ``torch.export`` can trace.
        data: the three splits.
        target: upper bounds on the result.
        recipe: method, see ``tersenet recipes``.
        seed: fixes the run, together with recipe and data.

    Raises:
        TersenetError: see ``tersenet.errors``; nothing that was found is lost.
    """
    options = options or CompressOptions()
    check_export(options.export)
    check_deliver(options.deliver, recipe, options.controls)
    _check_reference(target, options)
    with _run_folder(options) as folder:
        prepared = prepare(model, data.example_inputs(), target=target, recipe=recipe, options=options)
        for note in prepared.notes:
            options.progress.note(note)
        try_export(prepared, data, options.export, seed=seed)
        identity = _identity(prepared, data, target, seed=seed, options=options)
        has_stages = prepared.recipe.stores or prepared.recipe.is_live
        evaluator = None if has_stages else make_evaluator(prepared, data, seed=seed, options=options)
        with Study(folder / STUDY_FILE, identity=identity) as study:  # until the end: one process per folder
            if prepared.staircase is not None:
                study.agree(STAIRCASE, {"found": prepared.staircase.model_dump_json()})
            remove_leftovers(folder)
            remove_leftovers(folder / CHECKPOINTS)
            job = TuningJob(
                prepared=prepared,
                data=data,
                target=target,
                seed=seed,
                options=options,
                folder=folder,
                provenance=run_provenance(data, options, recipe=recipe, seed=seed),
                reference=_reference(prepared, data, target, options),
            )
            if evaluator is None:
                tuned, found = (compress_live if prepared.recipe.is_live else compress_storage)(job, study)
            else:
                found = search(prepared, study, evaluator, seed=seed, options=options)
                _keep_agent(job, study)
                tuned = tune_until_kept(job, found.winner)
            study.check_in_place()
            return _finish(job, tuned, found)


def apply(model: nn.Module, policy: Policy, *, data: Data, seed: int, options: CompressOptions | None = None) -> Result:
    """Build, fine-tune, write and measure a policy that was written or edited by hand; no search.

    Raises:
        PolicyError: the policy does not fit the network.
        SearchError: a setting is out of its range.
        UnknownNameError: no setting has the name, or it belongs to a search.
    """
    options = options or CompressOptions()
    check_export(options.export)
    epochs = {} if options.finetune_epochs is None else {"finetune_epochs": options.finetune_epochs}
    recipes.validated(recipes.TuningConfig, {**options.recipe_options, **epochs}, owner="apply")
    with _run_folder(options) as folder:
        prepared = prepare(model, data.example_inputs(), target=None, recipe="he2018", options=options)
        try_export(prepared, data, options.export, seed=seed)
        job = TuningJob(
            prepared=prepared,
            data=data,
            target=None,
            seed=seed,
            options=options,
            folder=folder,
            provenance=run_provenance(data, options, recipe="apply", seed=seed),
            reference=None,
        )
        return _finish(job, tune_until_kept(job, policy), None)


@contextmanager
def _run_folder(options: CompressOptions) -> Iterator[Path]:
    """The folder of the run; a temporary one goes at once if the run fails, else with the result."""
    if options.out is not None:
        yield make_folder(options.out)
        return
    folder = Path(tempfile.mkdtemp(prefix="tersenet-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_deliver(deliver: str | None, recipe: str, controls: tuple[str, ...]) -> None:
    """Whether somebody can be asked for the policy that is to be delivered.

    Raises:
        UnknownNameError: it is neither the recipe nor a control of this run.
    """
    known = [recipe] if recipes.get(recipe).is_live else [recipe, *controls]
    if deliver is not None and deliver not in known:
        raise unknown_name("method of this run (deliver; the recipe, or one of controls)", deliver, known)


def _check_reference(target: Target, options: CompressOptions) -> None:
    if target.max_top1_drop is not None and options.weights_saw_search and options.reference_top1 is None:
        raise TargetError(
            f"max_top1_drop={target.max_top1_drop} is checked on the search split, but the weights have seen it in "
            "training, so the drop would look larger than it is. Give reference_top1 (the accuracy on unseen images), "
            "or weights that were trained without the search split (`tersenet train`, or weights_saw_search=False)."
        )


def _reference(prepared: Prepared, data: Data, target: Target, options: CompressOptions) -> float | None:
    if target.max_top1_drop is None:
        return None
    if options.reference_top1 is not None:
        return options.reference_top1
    metrics = measure_quality(prepared.model, data.search.source, options.task, split="search", device=options.device)
    return metrics.quality


def _identity(prepared: Prepared, data: Data, target: Target, *, seed: int, options: CompressOptions) -> dict[str, str]:
    search_config = prepared.config.model_dump(mode="json", exclude={*TUNING, "storage"})
    if prepared.staircase is not None:
        search_config["round_to"] = "auto"  # the number is kept with what it comes from
    begun_with = {} if prepared.agent is None else {"agent": prepared.agent.sha256}
    rules = {} if options.rules is None else {"rules": options.rules.model_dump_json()}
    return (
        begun_with
        | rules
        | {
            "tersenet": __version__,
            "recipe": prepared.recipe.name,
            "config": json.dumps(search_config, sort_keys=True),
            "controls": ",".join(options.controls),
            "target": target.model_dump_json(exclude_none=True),
            "seed": str(seed),
            "workers": str(options.workers),
            "metric": options.task.quality_name,
            "trial_samples": str(data.num_trial_samples),
            "data": data.content_hash,
            "weights": weights_hash(prepared.model),
        }
    )


def _keep_agent(job: TuningJob, study: Study) -> None:
    """Write what the recipe's agent has learned, where it fits other networks."""
    recipe = job.prepared.recipe
    state = study.agent_state(recipe.name)
    if recipe.transfers and state is not None:
        write_agent(job.folder / AGENT_FILE, state, recipe=recipe.name, network=job.options.model_name)


def _finish(job: TuningJob, tuned: Tuned, found: Found | None) -> Result:
    delivered = deliver(
        job.prepared,
        tuned,
        data=job.data,
        folder=job.folder,
        provenance=dict(job.provenance),
        options=job.options,
    )
    run = summarize(job, tuned, found, delivered, deliver_int8(job, delivered.model))
    try:
        write_report(job.folder, run)
    except MissingExtraError as error:  # result.json is written first, so nothing is lost
        job.options.progress.note(f"No report.html was written. {error}")
    result = Result(
        model=delivered.model,
        policy=tuned.policy,
        plan=tuned.plan,
        run=run,
        target_reached=not missed_bounds(job, tuned, delivered),
        folder=job.folder,
    )
    if job.options.out is None:
        weakref.finalize(result, shutil.rmtree, job.folder, ignore_errors=True)
    return result
