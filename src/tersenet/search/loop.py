"""Runs one method to its last trial, or goes on with it.

Two savings, both fixed by what the study holds, so that a resumed run goes the same way: a policy that any method of
the study has measured to its end is looked up, and with racing a trial may stop as soon as it can hardly come among
the best ``RACING_RANK`` of its method. What a stopped trial had reached by then is its reward.

With an evaluator that measures several policies at once, that many trials are in flight (``searcher.py``). They are
told in the order asked, a policy that is in flight already is not measured a second time, and racing knows only what
was told before a trial was asked for: nothing depends on which of them is measured first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tersenet.core.metrics import Evaluation
from tersenet.core.progress import Progress
from tersenet.core.protocols import Evaluator, ParallelEvaluator
from tersenet.search.searcher import PROBE, Method, Searcher, candidates
from tersenet.search.study import Study, Trial

RACING_RANK = 10
"""A trial is hopeless once it cannot be among this many best: as many as are confirmed."""


def run_method(
    method: Method,
    study: Study,
    evaluator: Evaluator,
    *,
    seed: int,
    progress: Progress,
    rival: float | None = None,
    racing: bool = False,
) -> list[Trial]:
    """Ask, evaluate and tell until all trials of the method are told.

    Args:
        rival: best quality of a control so far, shown beside the method's own best.
        racing: whether hopeless trials stop early.

    Returns:
        All trials of the method, in order.
    """
    workers = evaluator.workers if isinstance(evaluator, ParallelEvaluator) else 1
    searcher = Searcher(method, study, seed=seed, workers=workers)
    known = None if method.is_live else _measured_before(study)
    flight = _Flight(evaluator, known, searcher, racing=racing)
    stage = f"search {method.name}"
    progress.start(stage, method.num_trials, done=len(searcher.told))
    while not searcher.is_done:
        while searcher.can_ask:
            flight.begin(searcher.ask())
        trial, evaluation = flight.oldest()
        searcher.tell(trial, evaluation)
        progress.update(stage, len(searcher.told), _facts(searcher.told, rival))
    progress.finish(stage)
    return searcher.told


class _Flight:
    """The trials in flight and what measures them."""

    def __init__(
        self, evaluator: Evaluator, known: dict[str, Evaluation] | None, searcher: Searcher, *, racing: bool
    ) -> None:
        """``known``: what was measured before, by the policy's digest; None: every trial is measured anew."""
        self._evaluator = evaluator
        self._looks_up = known is not None
        self._known = known or {}
        self._searcher = searcher
        self._racing = racing
        self._begun: deque[tuple[Trial, Callable[[], Evaluation] | None]] = deque()

    def begin(self, trial: Trial) -> None:
        """Have a trial measured, unless its policy was measured before or is in flight."""
        digest = trial.policy.digest()
        is_begun = any(other.policy.digest() == digest for other, _ in self._begun)
        is_known = self._looks_up and (digest in self._known or is_begun)
        self._begun.append((trial, None if is_known else self._measured(trial)))

    def oldest(self) -> tuple[Trial, Evaluation]:
        """The trial that was begun first, and what came of it."""
        trial, wait = self._begun.popleft()
        digest = trial.policy.digest()
        if wait is None and digest in self._known:
            return trial, self._known[digest].model_copy(update={"seconds": 0.0, "looked_up": True})
        if wait is None:  # the same policy was in flight and stopped early
            wait = self._measured(trial)
        evaluation = wait()
        if not evaluation.stopped_early:
            self._known[digest] = evaluation
        return trial, evaluation

    def _measured(self, trial: Trial) -> Callable[[], Evaluation]:
        evaluator, policy = self._evaluator, trial.policy
        is_raced = self._racing and trial.phase != PROBE
        threshold = hopeless_below(self._searcher.told_before(trial)) if is_raced else None
        if isinstance(evaluator, ParallelEvaluator):
            return evaluator.begin(policy, hopeless_below=threshold)
        return lambda: evaluator.evaluate(policy, hopeless_below=threshold)


def hopeless_below(told: list[Trial]) -> float | None:
    """The quality that a trial must be able to reach to come among the best; None while those are too few."""
    best = sorted((quality(trial) for trial in candidates(told)), reverse=True)
    return best[RACING_RANK - 1] if len(best) >= RACING_RANK else None


def quality(trial: Trial) -> float:
    """Measured quality of a told trial."""
    assert trial.evaluation is not None
    return trial.evaluation.metrics.quality


def _measured_before(study: Study) -> dict[str, Evaluation]:
    """Evaluations that went to the end, by the policy's digest."""
    trials = [trial for method in study.methods() for trial in study.trials(method)]
    return {
        trial.policy.digest(): trial.evaluation
        for trial in trials
        if trial.evaluation is not None and not trial.evaluation.stopped_early
    }


def _facts(told: list[Trial], rival: float | None) -> dict[str, str]:
    best = max((quality(trial) for trial in candidates(told)), default=None)
    facts = {"best": "-" if best is None else f"{best:.2f}", "last": f"{quality(told[-1]):.2f}"}
    if rival is not None:
        facts["best control"] = f"{rival:.2f}"
    return facts
