"""Runs one method to its last trial, or goes on with it.

Two savings, both fixed by what the study holds, so that a resumed run goes the same way: a policy that any method of
the study has measured to its end is looked up, and with racing a trial may stop as soon as it can hardly come among
the best ``RACING_RANK`` of its method. What a stopped trial had reached by then is its reward.
"""

from __future__ import annotations

from tersenet.core.metrics import Evaluation
from tersenet.core.progress import Progress
from tersenet.core.protocols import Evaluator
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
    searcher = Searcher(method, study, seed=seed)
    known = _measured_before(study)
    stage = f"search {method.name}"
    progress.start(stage, method.num_trials, done=len(searcher.told))
    while not searcher.is_done:
        trial = searcher.ask()
        digest = trial.policy.digest()
        if digest in known:
            evaluation = known[digest].model_copy(update={"seconds": 0.0, "looked_up": True})
        else:
            threshold = hopeless_below(searcher.told) if racing and trial.phase != PROBE else None
            evaluation = evaluator.evaluate(trial.policy, hopeless_below=threshold)
        searcher.tell(trial, evaluation)
        if not evaluation.stopped_early:
            known[digest] = evaluation
        progress.update(stage, len(searcher.told), _facts(searcher.told, rival))
    progress.finish(stage)
    return searcher.told


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
