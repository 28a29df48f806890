"""Recipes that switch channels or 2-D kernels of one network while it trains: rounds, then a policy, then tuning.

The network in training is saved with the agent after every round. At the end the masks become a policy whose plan cuts
the original, and the same plan cuts the trained weights, which are tuned, stored and delivered like any others.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tersenet.api.building import (
    CutNetwork,
    Tuned,
    TuningJob,
    learn_repair,
    measured_dense,
    store,
    tuned_cut,
)
from tersenet.api.prepare import Prepared
from tersenet.api.searching import MEASURED_BY, Found, measured_by, point_of, remembered
from tersenet.api.tuning import fit_bytes, smallest_kept
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.summary import Confirmed, RoundPoint
from tersenet.core.target import CostKind
from tersenet.envs import KernelEnv, KernelSpace, Limit
from tersenet.envs.switched import Switched
from tersenet.errors import ModelError, TargetError
from tersenet.evaluators import LiveEvaluator, check_one_worker
from tersenet.graph import duplicate
from tersenet.recipes import Live
from tersenet.recipes.khatri2020 import Khatri2020Config, exploring_share, switched_of
from tersenet.search import Method, Study, Trial, quality, run_method
from tersenet.train import LiveSession, TrainConfig
from tersenet.train.fresh_weights import draw_weights
from tersenet.transforms import make_plan

MAX_STATE_BYTES = 900_000_000
"""What is saved after every round must fit into one value of SQLite."""


FIRST_SECONDS = "seconds before the first round"
"""Key in the study: how long the network was trained before anything was switched."""


def compress_live(job: TuningJob, study: Study) -> tuple[Tuned, Found]:
    """Train and switch for all rounds, cut what is off, tune what is left.

    Raises:
        SearchError: there are several workers.
        ModelError: the network is too large to be saved after every round.
        TargetError: the magnitude schedule has no bound to go to.
    """
    check_one_worker(job.options.workers)
    config = config_of(job.prepared)
    if config.agent == "magnitude" and not job.prepared.budget.limits:
        raise TargetError(
            "agent='magnitude' only follows the bounds of the target, and there is none. Give max_params_ratio, "
            "max_macs_ratio or max_size_ratio."
        )
    if job.options.controls:
        job.options.progress.note(
            "Controls of khatri2020 are trainings of their own: run it again with agent=random and agent=magnitude."
        )
    job = _without_teacher(job)
    session = _session(job)
    evaluator = LiveEvaluator(
        session,
        job.data.search,
        num_trial_samples=job.data.num_trial_samples,
        batches_per_round=batches_per_round(job),
        switched=_switched(job),
        task=job.options.task,
        device=job.options.device,
    )
    batch_size = str(config.finetune_batch_size)
    study.agree(MEASURED_BY, evaluator.signature | {"finetune_batch_size": batch_size})
    baseline = remembered(study, "baseline", lambda: measured_dense(job, first=job.data.num_trial_samples))
    method = _method(job, session, baseline)
    if study.agent_state(method.name) is None:  # channels have no health before anything was trained
        started = time.perf_counter()
        session.train(batches_per_round(job))
        study.set_fact(FIRST_SECONDS, time.perf_counter() - started)
    trials = run_method(method, study, evaluator, seed=job.seed, progress=job.options.progress)
    assert isinstance(method.env, KernelEnv)
    tuned = _tuned_until_kept(job, session, method.env, trials)
    cut_by = tuned.policy.model_copy(update={"storage": {}})
    return tuned, _found(job, study, evaluator, trials, cut_by, baseline)


def config_of(prepared: Prepared) -> Khatri2020Config:
    """The recipe's configuration."""
    assert isinstance(prepared.config, Khatri2020Config)
    return prepared.config


def batches_per_round(job: TuningJob) -> int:
    """Training batches of one round, and of the one before the first in which nothing is switched yet."""
    config = config_of(job.prepared)
    batches = math.ceil(job.data.train.source.num_samples / config.finetune_batch_size)
    return max(1, round(config.live_epochs * batches / (config.trials + 1)))


def _without_teacher(job: TuningJob) -> TuningJob:
    """From scratch, the trained network must not teach either."""
    config = config_of(job.prepared)
    if config.start == "trained":
        return job
    return replace(job, prepared=replace(job.prepared, config=config.model_copy(update={"distill_weight": 0.0})))


def _session(job: TuningJob) -> LiveSession:
    prepared, config, names = job.prepared, config_of(job.prepared), list(_switched(job).sizes)
    model = prepared.model
    if config.start == "scratch":
        model = duplicate(model)
        draw_weights(model, seed=job.seed)
    if 8 * prepared.graph.num_params > MAX_STATE_BYTES:
        raise ModelError(
            f"The network has {prepared.graph.num_params:,} parameters; with their momenta they are too large to be "
            "saved after every round. Use a recipe that cuts a trained network, such as he2018."
        )
    rounds = TrainConfig(
        epochs=max(1, math.ceil(config.live_epochs)),
        batch_size=config.finetune_batch_size,
        learning_rate=config.live_learning_rate,
        warmup_epochs=0.5 if config.start == "scratch" else 0.0,
        device=job.options.device,
        seed=job.seed,
    )
    return LiveSession(
        model,
        prepared.graph,
        job.data.train,
        rounds,
        group_ids=names if config.unit == "filter" else (),
        kernels_of=names if config.unit == "kernel" else (),
        task=job.options.task,
        health="scale" if config.agent == "magnitude" else config.health,
    )


def _method(job: TuningJob, session: LiveSession, baseline: Evaluation) -> Method:
    given = job.options.reference_top1
    reference = baseline.metrics.quality if given is None else given
    problem = job.prepared.problem(seed=job.seed)
    live = Live(signals=session, reference=reference, price=_price(job))
    return job.prepared.recipe.build(replace(problem, live=live), job.prepared.config)


def _price(job: TuningJob) -> Limit:
    """The cost that is made small: the one that the target bounds first, else the one it names."""
    limits = job.prepared.budget.limits
    kind: CostKind = job.target.minimize if job.target is not None else "params"
    if isinstance(job.prepared.space, KernelSpace) and kind != "size_bytes":
        kind = "nonzero_params" if kind == "params" else "nonzero_macs"
    return limits[0] if limits else job.prepared.cost(kind)


def _switched(job: TuningJob) -> Switched:
    return switched_of(job.prepared.graph, job.prepared.space)


def _tuned_until_kept(job: TuningJob, session: LiveSession, env: KernelEnv, trials: Sequence[Trial]) -> Tuned:
    """Tune the last masks; where ``max_top1_drop`` is missed, those of larger rounds before, by bisection."""
    price = _price(job)

    def cost(policy: Policy) -> float:
        return price.table.cost(job.prepared.num_kept(policy))

    last = env.within_bounds(trials[-1].policy, job.prepared.budget)
    larger = {
        trial.policy.digest(): trial.policy
        for trial in trials
        if cost(trial.policy) > cost(last) and job.prepared.budget.fits(job.prepared.num_kept(trial.policy))
    }
    ladder = [last, *sorted(larger.values(), key=cost)]

    def attempt(place: int) -> Tuned:
        if place > 0:
            job.options.progress.note("max_top1_drop is not settled yet: tuning the masks of another round.")
        return _tuned(job, session, env, ladder[place])

    def between(lowest: int, highest: int) -> int | None:
        return None if lowest + 1 >= highest else (lowest + highest) // 2

    return smallest_kept(job, attempt, first=0, lowest=-1, highest=len(ladder), between=between)


def _tuned(job: TuningJob, session: LiveSession, env: KernelEnv, policy: Policy) -> Tuned:
    """Cut the trained network, take away more until its file fits, tune and store it."""
    prepared, switched = job.prepared, _switched(job)

    def cut_of(tried: Policy) -> CutNetwork:
        return CutNetwork(
            model=session.network_of(switched.masks(tried)),
            policy=tried,
            plan=make_plan(prepared.model, prepared.graph, tried, seed=job.seed),
            repair=learn_repair(job),
        )

    def tighter(bounded: Prepared, tried: Policy) -> Policy:
        return env.within_bounds(tried, bounded.budget)

    cut = tuned_cut(job, fit_bytes(job, prepared, policy, cut=cut_of, decode=tighter))
    return replace(store(job, cut, {}), epochs=cut.epochs, seconds=cut.seconds)


def _found(
    job: TuningJob,
    study: Study,
    evaluator: LiveEvaluator,
    trials: Sequence[Trial],
    policy: Policy,
    baseline: Evaluation,
) -> Found:
    started = time.perf_counter()
    skip = job.data.num_trial_samples
    untuned = remembered(study, f"confirmed {policy.digest()}", lambda: evaluator.confirm(policy))
    last = trials[-1]
    confirmed = Confirmed(
        method=last.method,
        index=last.number,
        trial_quality=quality(last),
        confirmed_quality=untuned.metrics.quality,
        num_samples=untuned.metrics.num_samples or 0,
        costs=job.prepared.cost_ratios(policy),
        policy=policy,
    )
    return Found(
        winner=policy,
        untuned=untuned,
        baseline=baseline,
        dense=remembered(study, "dense", lambda: measured_dense(job, skip=skip)),
        measured_by=measured_by(study),
        trials=tuple(point_of(job.prepared, trial) for trial in trials),
        confirmed=(confirmed,),
        search_seconds=float(str(study.fact(FIRST_SECONDS))) + sum(trial.seconds or 0.0 for trial in trials),
        confirm_seconds=time.perf_counter() - started,
        rounds=rounds_of(job, trials, baseline.metrics.quality),
    )


def rounds_of(job: TuningJob, trials: Sequence[Trial], reference: float) -> tuple[RoundPoint, ...]:
    """What every round switched, from the masks in the study."""
    prepared, price, config, switched = job.prepared, _price(job), config_of(job.prepared), _switched(job)
    masks = [switched.masks(trial.policy) for trial in trials]
    flat = np.stack(
        [np.ones(sum(switched.sizes.values()), dtype=np.bool_), *(np.concatenate(list(m.values())) for m in masks)]
    )
    switched = flat[1:] != flat[:-1]
    return tuple(
        RoundPoint(
            index=trial.number,
            exploring=exploring_share(config, trial.number),
            quality=quality(trial),
            reference=reference,
            cost=price.table.cost(prepared.num_kept(trial.policy)) / price.original,
            num_on={group_id: int(mask.sum()) for group_id, mask in masks[number].items()},
            num_off=int((switched[number] & ~flat[number + 1]).sum()),
            num_woken=int((switched[number] & flat[number + 1]).sum()),
            num_settled=int((~switched[number + 1 :].any(axis=0)).sum()),
            seconds=trial.seconds or 0.0,
        )
        for number, trial in enumerate(trials)
    )
