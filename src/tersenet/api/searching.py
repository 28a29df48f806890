"""The search of a run: every method's trials, then the best ones measured again on images no trial saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from tersenet import recipes
from tersenet.api.options import CompressOptions
from tersenet.api.prepare import Prepared
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Evaluator, ParallelEvaluator
from tersenet.core.summary import Confirmed, RoundPoint, StageSummary, TrialPoint
from tersenet.errors import SearchError
from tersenet.recipes import Recipe
from tersenet.search import Method, Study, Trial, candidates, quality, run_method

NUM_CONFIRMED = 10
"""Policies of the recipe that are measured again."""

MEASURED_BY = "evaluator"
"""Key in a study of the signature of what measured its trials."""

SEARCHED = "searched"
"""Key in a study in which nothing is left to measure."""

WARMUP_AS_RANDOM = "random (warm-up)"
"""What the best of the agent's own random proposals is called beside the controls."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search ends with."""

    winner: Policy
    untuned: Evaluation
    """The winner on the held-back search images."""

    baseline: Evaluation
    """The original network on the trial images."""

    dense: Evaluation
    """The original network on the held-back search images."""

    measured_by: Mapping[str, str]
    """What the trials have in common: number format, device, processor, threads, versions, ..."""

    trials: tuple[TrialPoint, ...]
    confirmed: tuple[Confirmed, ...]
    search_seconds: float
    """Seconds the trials took, those of interrupted runs included."""

    confirm_seconds: float

    rounds: tuple[RoundPoint, ...] = ()
    """Of a network that was trained meanwhile."""

    first_stage: StageSummary | None = None
    """What came before, where that was searched too."""


def search(prepared: Prepared, study: Study, evaluator: Evaluator, *, seed: int, options: CompressOptions) -> Found:
    """Run the controls and the recipe, confirm the best, choose the winner among those of ``options.deliver``.

    An evaluator that is a context manager is entered for as long as this takes. A search that was done is read from the
    study, whatever the evaluator: what follows it may happen on another device.

    Raises:
        MissingExtraError: a method needs a library that is not installed; nothing was evaluated.
        SearchError: no trial was told, so that nothing could be confirmed.
        StudyError: what the study has was measured by an evaluator with another signature, and more is to be measured.
    """
    if study.fact(SEARCHED) is None:
        study.agree(MEASURED_BY, evaluator.signature)
    for name in (*options.controls, prepared.recipe.name):
        recipes.get(name).check_installed()
    with evaluator if isinstance(evaluator, AbstractContextManager) else nullcontext():
        return _search(prepared, study, evaluator, seed=seed, options=options)


def _search(prepared: Prepared, study: Study, evaluator: Evaluator, *, seed: int, options: CompressOptions) -> Found:
    baseline = remembered(study, "baseline", lambda: evaluator.evaluate(Policy()))
    trials: list[Trial] = []
    rival: float | None = None
    for name in options.controls:
        if name != prepared.recipe.name:
            method = _method(prepared, recipes.get(name), seed=seed)
            trials += run_method(
                method, study, evaluator, seed=seed, progress=options.progress, racing=prepared.config.racing
            )
            rival = max((quality(trial) for trial in candidates(trials)), default=None)
    method = _method(prepared, prepared.recipe, seed=seed)
    own = run_method(
        method,
        study,
        evaluator,
        seed=seed,
        progress=options.progress,
        rival=rival,
        racing=prepared.config.racing,
    )
    confirmed, confirm_seconds = _confirm(prepared, study, evaluator, own=own, controls=trials)
    chosen = options.deliver or method.name
    winner = max((entry for entry in confirmed if entry[1].method == chosen), key=_confirmed_quality)
    dense = remembered(study, "dense", lambda: evaluator.confirm(Policy()))
    study.set_fact(SEARCHED, True)
    told = [*trials, *own]
    return Found(
        winner=winner[0].policy,
        untuned=winner[2],
        baseline=baseline,
        dense=dense,
        measured_by=measured_by(study),
        trials=tuple(point_of(prepared, trial) for trial in told),
        confirmed=tuple(entry[1] for entry in confirmed),
        search_seconds=sum(trial.seconds or 0.0 for trial in told),
        confirm_seconds=confirm_seconds,
    )


def _method(prepared: Prepared, recipe: Recipe, *, seed: int) -> Method:
    config = prepared.config
    if recipe.name != prepared.recipe.name:
        config = recipes.as_control(config, recipe)
    return recipe.build(prepared.problem(seed=seed), config)


def measured_by(study: Study) -> dict[str, str]:
    """The signature of the evaluator that measured the trials of a study."""
    facts = study.fact(MEASURED_BY)
    assert isinstance(facts, dict)
    return {name: str(fact) for name, fact in facts.items()}


def remembered(study: Study, key: str, measure: Callable[[], Evaluation]) -> Evaluation:
    """What the study holds under this key; measured and kept there the first time."""
    stored = study.fact(key)
    if stored is not None:
        return Evaluation.model_validate(stored)
    evaluation = measure()
    study.set_fact(key, evaluation.model_dump(mode="json"))
    return evaluation


def _best_distinct(trials: Iterable[Trial], count: int) -> list[Trial]:
    best: dict[str, Trial] = {}
    for trial in sorted(candidates(trials), key=quality, reverse=True):
        best.setdefault(trial.policy.digest(), trial)
    return list(best.values())[:count]


def _confirm(
    prepared: Prepared, study: Study, evaluator: Evaluator, *, own: list[Trial], controls: list[Trial]
) -> tuple[list[tuple[Trial, Confirmed, Evaluation]], float]:
    chosen = [(trial.method, trial) for trial in _best_distinct(own, NUM_CONFIRMED)]
    chosen += [(WARMUP_AS_RANDOM, trial) for trial in _best_distinct((t for t in own if t.phase == "warmup"), 1)]
    for name in dict.fromkeys(trial.method for trial in controls):
        chosen += [(name, trial) for trial in _best_distinct((t for t in controls if t.method == name), 1)]
    started = time.perf_counter()
    confirming = _confirming(study, evaluator, [trial.policy for _, trial in chosen])
    entries = []
    for name, trial in chosen:
        key = _confirmed_key(trial.policy)
        evaluation = remembered(study, key, confirming[key])
        entries.append((trial, _confirmed(prepared, name, trial, evaluation), evaluation))
    if not entries:
        raise SearchError("No trial could be confirmed, because none was told.")
    return entries, time.perf_counter() - started


def _confirming(study: Study, evaluator: Evaluator, policies: list[Policy]) -> dict[str, Callable[[], Evaluation]]:
    """What confirms each policy, by its key in the study; begun at once where several can be measured at a time."""
    calls: dict[str, Callable[[], Evaluation]] = {}
    for policy in policies:
        key = _confirmed_key(policy)
        if key in calls:
            continue
        if isinstance(evaluator, ParallelEvaluator) and study.fact(key) is None:
            calls[key] = evaluator.begin(policy, confirm=True)
        else:
            calls[key] = partial(evaluator.confirm, policy)
    return calls


def _confirmed_key(policy: Policy) -> str:
    return f"confirmed {policy.digest()}"


def _confirmed(prepared: Prepared, name: str, trial: Trial, evaluation: Evaluation) -> Confirmed:
    return Confirmed(
        method=name,
        index=trial.number,
        trial_quality=quality(trial),
        confirmed_quality=evaluation.metrics.quality,
        num_samples=evaluation.metrics.num_samples or 0,
        costs=prepared.cost_ratios(trial.policy),
        policy=trial.policy,
    )


def _confirmed_quality(entry: tuple[Trial, Confirmed, Evaluation]) -> float:
    return entry[1].confirmed_quality


def point_of(prepared: Prepared, trial: Trial) -> TrialPoint:
    """A told trial as the report shows it."""
    assert trial.evaluation is not None
    assert trial.reward is not None
    return TrialPoint(
        index=trial.number,
        method=trial.method,
        phase=trial.phase,
        reward=trial.reward,
        quality=quality(trial),
        costs=prepared.cost_ratios(trial.policy),
        seconds=trial.seconds or 0.0,
    )
