"""From a policy to a tuned smaller network, loosened or tightened until every bound holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

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

Size = TypeVar("Size", int, float)

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
    first = 0.0 if bounds_given else _fraction_of_start(job.prepared)

    def attempt(fraction: float) -> Tuned:
        if fraction == first:
            return tune(job, job.prepared, winner)
        prepared = _loosened(job.prepared, fraction, bounds_given=bounds_given)
        job.options.progress.note(f"max_top1_drop is not settled yet: tuning again at {_bounds_text(prepared)}.")
        return tune(job, prepared, redecode(prepared, winner))

    def between(lowest: float, highest: float) -> float | None:
        is_settled = job.reference is None or highest - lowest < SMALLEST_STEP
        return None if is_settled else (lowest + highest) / 2

    return smallest_kept(job, attempt, first=first, lowest=0.0, highest=1.0, between=between)


def smallest_kept(
    job: TuningJob,
    attempt: Callable[[Size], Tuned],
    *,
    first: Size,
    lowest: Size,
    highest: Size,
    between: Callable[[Size, Size], Size | None],
) -> Tuned:
    """Tune networks of several sizes, at most four, towards the smallest that keeps ``max_top1_drop``.

    Args:
        job: says what is kept.
        attempt: tunes the network of a size.
        first: the size that is tried first.
        lowest: what is taken for too small.
        highest: what is taken for large enough.
        between: the next size, from the largest that was too small and the smallest that was kept; None ends.

    Returns:
        The smallest that keeps the drop; if none does, the best.
    """
    attempts: list[tuple[Size, Tuned]] = []
    size: Size | None = first
    while size is not None and len(attempts) < MAX_TUNINGS:
        tuned = attempt(size)
        attempts.append((size, tuned))
        lowest, highest = (lowest, size) if job.keeps_drop(tuned) else (size, highest)
        size = between(lowest, highest)
    kept = [one for one in attempts if job.keeps_drop(one[1])]
    if kept:
        return min(kept, key=lambda one: one[0])[1]
    return max((tuned for _, tuned in attempts), key=lambda tuned: tuned.metrics.quality)


def tune(job: TuningJob, prepared: Prepared, policy: Policy) -> Tuned:
    """Build, repair and fine-tune the network of a policy that fits the bound on bytes, and weigh its file.

    A network that is cut and then coded is tuned twice, before and after its weights are coded.
    """
    if any(not isinstance(form, Raw) for form in policy.storage.values()):
        return code_and_tune(job, cut_by(job, policy), policy, coder=Coder())
    repair = learn_repair(job)
    fitting = fit_bytes(job, prepared, policy, cut=lambda tried: repaired(job, repair, tried), decode=redecode)
    cut = tuned_cut(job, fitting)
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


def fit_bytes(
    job: TuningJob,
    prepared: Prepared,
    policy: Policy,
    *,
    cut: Callable[[Policy], CutNetwork],
    decode: Callable[[Prepared, Policy], Policy],
) -> CutNetwork:
    """Take away more until the file, index included, is within the bound on bytes.

    Args:
        job: has the bound.
        prepared: has the budget that ``policy`` was decoded to.
        policy: what is tried first.
        cut: the network of a policy.
        decode: a policy within a tighter budget that decides as the given one did.
    """
    while True:
        made = cut(policy)
        if job.size_bound == float("inf"):
            return made
        dtype = aimed_dtype(job)
        size = weigh(made.model, made.plan, with_storage(policy, prepared, dtype), job.provenance, dtype)
        if size <= job.size_bound:
            return made
        limit = prepared.cost("size_bytes")
        prepared = prepared.bounded_to("size_bytes", limit.maximum - 1.02 * (size - job.size_bound))
        policy = decode(prepared, policy)
