"""From a policy to a tuned smaller network, loosened or tightened until every bound holds."""

from __future__ import annotations

from dataclasses import replace

from tersenet.api.building import (
    CutNetwork,
    Tuned,
    TuningJob,
    aimed_dtype,
    code_and_tune,
    cut_by,
    learn_repair,
    repaired,
    store,
    tuned_cut,
    weigh,
    with_storage,
)
from tersenet.api.prepare import Prepared
from tersenet.core.policy import Policy, Raw
from tersenet.envs import ChannelSpace, reachable, shares_of
from tersenet.recipes import make_env
from tersenet.transforms import Coder

MAX_TUNINGS = 4
"""Networks that are tuned at most to keep ``max_top1_drop``."""

SMALLEST_STEP = 0.02
"""Where the bisection for ``max_top1_drop`` stops, as a share of the way from the bound to the whole network."""


def tune_until_kept(job: TuningJob, winner: Policy) -> Tuned:
    """Tune the winner; where ``max_top1_drop`` is missed, loosen the budget by bisection and tune again.

    The bisection runs from the bounds of the target (fraction 0) to the whole network (fraction 1), with at most four
    tunings. Where the target bounds no cost it starts in between and may also go down. The smallest network that keeps
    the drop is returned; if none does, the best.
    """
    bounds_given = job.target is None or bool(job.target.bounds())
    lowest, highest = 0.0, 1.0
    fraction = 0.0 if bounds_given else _fraction_of_start(job.prepared)
    policy, prepared = winner, job.prepared
    attempts: list[tuple[float, Tuned]] = []
    while True:
        tuned = tune(job, prepared, policy)
        attempts.append((fraction, tuned))
        if job.keeps_drop(tuned):
            highest = fraction
        else:
            lowest = fraction
        if job.reference is None or len(attempts) == MAX_TUNINGS or highest - lowest < SMALLEST_STEP:
            break
        fraction = (lowest + highest) / 2
        prepared = _loosened(job.prepared, fraction, bounds_given=bounds_given)
        policy = redecode(prepared, winner)
        job.options.progress.note(f"max_top1_drop is not settled yet: tuning again at {_bounds_text(prepared)}.")
    kept = [attempt for attempt in attempts if job.keeps_drop(attempt[1])]
    if kept:
        return min(kept, key=lambda attempt: attempt[0])[1]
    return max(attempts, key=lambda attempt: attempt[1].metrics.quality)[1]


def tune(job: TuningJob, prepared: Prepared, policy: Policy) -> Tuned:
    """Build, repair and fine-tune the network of a policy that fits the bound on bytes, and weigh its file.

    A network that is cut and then coded is tuned twice, before and after its weights are coded.
    """
    if any(not isinstance(form, Raw) for form in policy.storage.values()):
        return code_and_tune(job, cut_by(job, policy), policy, coder=Coder())
    cut = tuned_cut(job, _fit_bytes(job, prepared, policy))
    return replace(store(job, cut, {}), epochs=cut.epochs, seconds=cut.seconds)


def redecode(prepared: Prepared, policy: Policy) -> Policy:
    """The same preferences between groups, decoded to the budget of ``prepared``."""
    env = make_env(prepared.problem(seed=0), prepared.config, decoder="level")
    space, counts = prepared.space, prepared.num_kept(policy)
    decided = counts[space.indices] if isinstance(space, ChannelSpace) else counts
    return env.decode(shares_of(space, decided)[:, None])


def _fraction_of_start(prepared: Prepared) -> float:
    limit = prepared.budget.limits[0]
    floor = reachable(prepared.space, limit.table)
    return (limit.maximum - floor) / (limit.original - floor)


def _loosened(prepared: Prepared, fraction: float, *, bounds_given: bool) -> Prepared:
    changed = prepared
    for limit in prepared.budget.limits:
        floor = limit.maximum if bounds_given else reachable(prepared.space, limit.table)
        changed = changed.bounded_to(limit.kind, floor + fraction * (limit.original - floor))
    return changed


def _bounds_text(prepared: Prepared) -> str:
    return ", ".join(
        f"{100 * limit.maximum / limit.original:.1f} % of {limit.kind}" for limit in prepared.budget.limits
    )


def _fit_bytes(job: TuningJob, prepared: Prepared, policy: Policy) -> CutNetwork:
    """Take away channels until the file, index included, is within the bound on bytes; the network is repaired."""
    repair = learn_repair(job)
    while True:
        cut = repaired(job, repair, policy)
        if job.size_bound == float("inf"):
            return cut
        dtype = aimed_dtype(job)
        size = weigh(cut.model, cut.plan, with_storage(policy, prepared, dtype), job.provenance, dtype)
        if size <= job.size_bound:
            return cut
        limit = prepared.cost("size_bytes")
        prepared = prepared.bounded_to("size_bytes", limit.maximum - 1.02 * (size - job.size_bound))
        policy = redecode(prepared, policy)
