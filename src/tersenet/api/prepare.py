"""Everything that is known before anything is spent: the traced network, what may be cut, what must be kept to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from tersenet import criteria, recipes
from tersenet.agents import Knowledge, read_agent
from tersenet.api.costs import check_storage_target, costs_of
from tersenet.api.live_kernels import kernel_space, refuse_nonsense
from tersenet.api.looking import look, plain
from tersenet.api.options import STUDY_FILE, CompressOptions
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import FloatArray, IntArray
from tersenet.core.rules import ChannelRule
from tersenet.core.staircase import Staircase
from tersenet.core.target import CostKind, Target
from tersenet.criteria import Learned
from tersenet.data import Data
from tersenet.envs import (
    Budget,
    ChannelSpace,
    JointSpace,
    KernelSpace,
    Limit,
    StorageSpace,
    apply_rules,
    nothing_to_cut,
    reachable,
    refuse_unreachable,
)
from tersenet.errors import SearchError
from tersenet.evaluators import FreshEvaluator, RayEvaluator, check_workers
from tersenet.graph import ModelGraph
from tersenet.measurement import probe_staircase
from tersenet.recipes import ChannelConfig, Problem, Recipe, StorageConfig
from tersenet.recipes.khatri2020 import Khatri2020Config
from tersenet.search import kept_fact
from tersenet.transforms import make_plan

STAIRCASE = "staircase"
"""Key in the study: what ``round_to="auto"`` found when the run began."""

FIRST_GUESS = 0.5
"""Share of the cost where ``max_top1_drop`` starts if no cost is bounded."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network ready to be searched."""

    model: nn.Module
    """The original, untouched; a copy with plain weights where torch computes some of them."""

    example_inputs: tuple[Tensor, ...]
    graph: ModelGraph
    recipe: Recipe
    config: ChannelConfig
    space: ChannelSpace | JointSpace | KernelSpace | StorageSpace
    costs: tuple[Limit, ...]
    """Every kind of cost that depends on what is decided; the maximum is infinite where the target sets no bound."""

    notes: tuple[str, ...]
    """What a user should read before the search."""

    seconds: float

    layers: tuple[str, ...] = ()
    """Layers that are decided by themselves, see ``recipes.Problem``."""

    learned: Learned | None = None
    """What training with noise found out; None where nothing was learned."""

    distortions: Callable[[], list[FloatArray]] | None = None
    """See ``recipes.Problem``."""

    rules: Mapping[str, ChannelRule] = field(default_factory=dict)
    """A user's rules by group id; ``graph`` and ``space`` follow them already."""

    agent: Knowledge | None = None
    """Networks that the recipe's agent begins with."""

    staircase: Staircase | None = None
    """Where ``round_to="auto"`` was asked for; ``config`` has the number then."""

    @property
    def budget(self) -> Budget:
        """The costs that are bounded."""
        return Budget(limits=tuple(limit for limit in self.costs if math.isfinite(limit.maximum)))

    def cost(self, kind: CostKind) -> Limit:
        """One kind of cost."""
        return next(limit for limit in self.costs if limit.kind == kind)

    def bounded_to(self, kind: CostKind, maximum: float) -> Prepared:
        """The same with another upper bound on one cost."""
        costs = tuple(replace(limit, maximum=maximum) if limit.kind == kind else limit for limit in self.costs)
        return replace(self, costs=costs)

    def problem(self, *, seed: int) -> Problem:
        """What a method is built for."""
        return Problem(
            graph=self.graph,
            space=self.space,
            budget=self.budget,
            seed=seed,
            layers=self.layers,
            distortions=self.distortions,
            rules=self.rules,
            agent=self.agent,
        )

    def criterion(self, group_id: str) -> str:
        """Which channels of a group go first."""
        return self.rules.get(group_id, ChannelRule()).criterion or self.config.criterion

    def num_kept(self, policy: Policy) -> IntArray:
        """What a policy keeps, as cost tables take it: channels per group of the graph, and what stays inside layers;
        or clusters or bits, per decided layer."""
        if isinstance(self.space, KernelSpace):
            return self.space.counts_of(policy)
        if not isinstance(self.space, ChannelSpace):
            return self.space.whole(recipes.make_decisions(self.problem(seed=0), self.config).counts(policy))
        counts = self.space.all_channels.copy()
        for index, group in enumerate(self.graph.channel_groups):
            if group.group_id in policy.channels:
                counts[index] = policy.channels[group.group_id].num_kept(group.num_channels)
        return counts

    def cost_ratios(self, policy: Policy) -> dict[str, float]:
        """Every cost of a policy over the original cost."""
        return Budget(limits=self.costs).ratios(self.num_kept(policy))


def configure(recipe: Recipe, options: CompressOptions) -> ChannelConfig:
    """The recipe's configuration with everything that the options set.

    Raises:
        SearchError: an option is unknown or out of its range.
        UnknownNameError: no criterion has the name.
        NotFoundError: a criterion of the user's own is not where its name says.
    """
    chosen: dict[str, object] = dict(options.recipe_options)
    if options.trials is not None:
        chosen["trials"] = options.trials
    if options.finetune_epochs is not None:
        chosen["finetune_epochs"] = options.finetune_epochs
    config = recipe.configure(chosen)
    for name in (config.criterion, *(options.rules.criteria if options.rules is not None else ())):
        criteria.use(name)
    return config


def known_agent(recipe: Recipe, options: CompressOptions) -> Knowledge | None:
    """What ``options.agent`` holds.

    Raises:
        SearchError: the recipe has no agent that fits another network, or the file is another recipe's.
        WeightsError: the file is no agent's.
    """
    if options.agent is None:
        return None
    if not recipe.transfers:
        able = [name for name in recipes.names() if recipes.get(name).transfers]
        raise SearchError(
            f"agent={str(options.agent)!r}: what recipe {recipe.name!r} learns does not fit another network. Recipes "
            f"with agents that do: {', '.join(able)}."
        )
    found = read_agent(options.agent)
    if found.recipe != recipe.name:
        raise SearchError(
            f"agent={str(options.agent)!r} was trained by recipe {found.recipe!r}, this search is by {recipe.name!r}. "
            f"Choose recipe {found.recipe!r}."
        )
    return found


def prepare(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    target: Target | None,
    recipe: str,
    options: CompressOptions,
    looked: tuple[ModelGraph, tuple[str, ...]] | None = None,
) -> Prepared:
    """Trace, check and bound a network.

    Args:
        target: None where no search follows; nothing is bounded then.
        looked: what ``look`` found, if it was called before.

    Raises:
        ModelError: the network cannot be used, nothing in it can be cut, or a criterion of the user's own fails.
        UnknownNameError: a rule matches no layer.
        PolicyError: rules contradict each other.
        TargetError: the target cannot be reached by cutting channels.
        MissingExtraError: ``round_to="auto"`` without onnxruntime.
    """
    started = time.perf_counter()
    chosen = recipes.get(recipe)
    config = configure(chosen, options)
    agent = known_agent(chosen, options)
    if isinstance(config, Khatri2020Config):
        refuse_nonsense(config, target, options)
    model, plain_notes = plain(model)
    graph, notes = look(model, example_inputs) if looked is None else looked
    ruled = apply_rules(graph, options.rules, prune_residual=config.prune_residual)
    graph = ruled.graph
    config, staircase = _with_block(config, graph, options)
    may_cut_nothing = chosen.build_first is None and _cuts_nothing(config, ruled.rules)
    space: ChannelSpace | KernelSpace
    if isinstance(config, Khatri2020Config) and config.unit == "kernel":
        space = kernel_space(graph, config)
    else:
        space = nothing_to_cut(graph) if may_cut_nothing else recipes.make_space(graph, config, ruled.rules)
    prepared = Prepared(
        model=model,
        example_inputs=example_inputs,
        graph=graph,
        recipe=chosen,
        config=config,
        space=space,
        costs=costs_of(model, graph, space, config, target),
        notes=(*plain_notes, *notes, *ruled.notes, *([] if staircase is None else [staircase.note])),
        agent=agent,
        staircase=staircase,
        seconds=time.perf_counter() - started,
        rules=ruled.rules,
    )
    _try_own_criteria(prepared)
    if target is None:
        return prepared
    if chosen.stores:  # what storage can reach is known once the network to be stored is there
        check_storage_target(target, chosen.name)
        return prepared
    if not target.bounds() and not chosen.is_live:
        cost = prepared.cost(target.minimize)
        prepared = prepared.bounded_to(target.minimize, max(FIRST_GUESS * cost.original, reachable(space, cost.table)))
    refuse_unreachable(space, prepared.budget)
    return prepared


def _with_block(
    config: ChannelConfig, graph: ModelGraph, options: CompressOptions
) -> tuple[ChannelConfig, Staircase | None]:
    """The configuration with a number in place of ``auto``, and what that comes from.

    A run that goes on takes what it began with: another probe could find another block, and be another run.
    """
    if config.round_to != "auto":
        return config, None
    kept = kept_fact(Path(options.out) / STUDY_FILE, STAIRCASE) if options.out is not None else None
    found = Staircase.model_validate_json(str(kept["found"])) if isinstance(kept, dict) else probe_staircase(graph)
    return config.model_copy(update={"round_to": found.round_to}), found


def _cuts_nothing(config: ChannelConfig, rules: Mapping[str, ChannelRule]) -> bool:
    """Whether a recipe that decides storage leaves all channels alone."""
    is_storage = isinstance(config, StorageConfig) and config.pruning_ratio == 0.0
    return is_storage and not any(rule.pruning_ratio for rule in rules.values())


def _try_own_criteria(prepared: Prepared) -> None:
    """Score every group once by criteria of the user's own, so that one that fails does so before the search."""
    if not isinstance(prepared.space, ChannelSpace):
        return
    groups = [prepared.graph.channel_groups[int(index)].group_id for index in prepared.space.indices]
    halves = {name: ChannelDecision(pruning_ratio=0.5, criterion=prepared.criterion(name)) for name in groups}
    own = {name: half for name, half in halves.items() if half.criterion in criteria.own()}
    if own:
        make_plan(prepared.model, prepared.graph, Policy(channels=own), seed=0)


def make_evaluator(
    prepared: Prepared, data: Data, *, seed: int, options: CompressOptions
) -> FreshEvaluator | RayEvaluator:
    """What measures the trials of a run.

    Raises:
        TersenetError: network, data or metric cannot be used, or there cannot be so many workers.
    """
    check_workers(options.workers, options.device)
    evaluator = FreshEvaluator(
        prepared.model,
        prepared.graph,
        data.train,
        data.search,
        num_trial_samples=data.num_trial_samples,
        task=options.task,
        seed=seed,
        device=options.device,
        repair=prepared.config.repair,
        learned=prepared.learned,
    )
    if options.workers == 1:
        return evaluator
    return RayEvaluator(evaluator, workers=options.workers, note=options.progress.note)
