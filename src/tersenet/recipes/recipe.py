"""What a recipe is: one method of one paper, its configuration, and how its parts are put together.

A recipe is one file with one ``@register``; the shared path (trace, confirm, tune, pack, report) is in ``api``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Annotated, Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from tersenet.agents import Knowledge
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import FloatArray, State
from tersenet.core.registry import Registry, unknown_name
from tersenet.core.rules import ChannelRule
from tersenet.embed import group_features, layer_features
from tersenet.envs import (
    Budget,
    ChannelDecisions,
    ChannelSpace,
    Decisions,
    DecoderName,
    JointDecisions,
    JointSpace,
    LayerwiseEnv,
    Limit,
    Signals,
    Space,
    StorageDecisions,
    StorageSpace,
    channel_space,
)
from tersenet.envs.rewards import accuracy_reward, haq_reward
from tersenet.errors import MissingExtraError, SearchError
from tersenet.evaluators import RepairName
from tersenet.graph import ModelGraph
from tersenet.search import Method
from tersenet.train import Assignments

Config = TypeVar("Config", bound="TuningConfig")


def _number_or_auto(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("a whole number of at least 1, or 'auto', is needed")


class TuningConfig(BaseModel, frozen=True, extra="forbid"):
    """What it takes to build, tune and store a policy, wherever it comes from."""

    criterion: str = "l1"
    """Which channels of a group go first."""

    prune_residual: bool = False
    """Whether channels that a residual addition ties across layers may be cut as well."""

    repair: RepairName = "recalibrate"
    """What is done to a cut network before it is measured, and before it is fine-tuned: ``none``, ``recalibrate``
    (batch-norm statistics), ``reconstruct`` (least squares, then that) or ``distill`` (a few steps, then that)."""

    storage: Literal["auto", "fp32", "fp16"] = "auto"
    """How the file holds weights; auto: fp16 where the search-split quality moves by at most 0.1 points."""

    finetune_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of fine-tuning of the winner."""

    finetune_learning_rate: Positive = 0.02
    """Peak learning rate of the cosine schedule."""

    finetune_batch_size: Count = 128
    """Samples per step."""

    distill_weight: Share = 0.7
    """Share of the loss that follows the original network; 0 switches distillation off."""

    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the target that is spread over all classes in fine-tuning; unused with the user's own loss."""

    assignments: Assignments = "fixed"
    """Which cluster a shared weight has in fine-tuning: ``fixed``, the one it began with; ``straight_through``, the one
    whose value is nearest at the moment to a weight in full precision that is trained beside."""


class ChannelConfig(TuningConfig, frozen=True, extra="forbid"):
    """What every search over channels needs, agents and controls alike."""

    trials: Count = 200
    """Policies that are evaluated."""

    lower_bound: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of a group's channels that always stays."""

    round_to: Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)] = 8
    """Channels of wide groups are removed in blocks of this many; ``auto``: of as many as a probe of onnxruntime finds,
    see ``measurement/staircase.py``; a search is always given a number."""

    round_from: Count = 64
    """Groups with fewer channels than this are not rounded."""

    racing: bool = False
    """Whether trials that can hardly come among the ten best stop early; their reward is the accuracy so far. Needs
    search images in mixed order."""


TUNING = (
    "finetune_epochs",
    "finetune_learning_rate",
    "finetune_batch_size",
    "distill_weight",
    "label_smoothing",
    "assignments",
)
"""Settings of fine-tuning; they may be others when a search goes on that no tuning came before."""

Decides = Literal["channels", "clusters", "weight_bits", "kernels"]
"""``kernels``: channels that are switched while the network trains."""

EVERYTHING: tuple[Decides, ...] = ("channels", "clusters", "weight_bits")


class LiveSignals(Signals, Protocol):
    """A network in training that can be saved and put back."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a method that trains one network is given besides."""

    signals: LiveSignals
    """The network in training."""

    reference: float
    """Quality of the original network on the trial images, or what the user holds the result against."""

    price: Limit
    """The cost that compression is counted in."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a search is given: the network as data, what may be cut, and what must be kept to."""

    graph: ModelGraph
    space: Space
    budget: Budget
    seed: int

    layers: tuple[str, ...] = ()
    """Layers that are decided by themselves, in the order of the space: how they are stored, or what stays inside;
    empty where channels alone are decided."""

    distortions: Callable[[], list[FloatArray]] | None = None
    """What storing does to each layer: per decision the expected rise of the loss for every count; computed when asked
    for. Only where storage is decided."""

    rules: Mapping[str, ChannelRule] = field(default_factory=dict)
    """A user's rules by group id; the space follows them already."""

    live: Live | None = None
    """Only where channels are switched in training."""

    agent: Knowledge | None = None
    """Networks that the recipe's agent begins with; None: new ones."""


class StorageConfig(ChannelConfig, frozen=True, extra="forbid"):
    """What every search over storage needs: what comes before it, and the counts to choose from."""

    pruning_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of channels that is cut from every group before, by ``criterion``; the network is then tuned once more."""

    fewest: Count = 2
    """Smallest number of clusters, or of bits, of a layer."""

    most: Annotated[int, Field(ge=2, le=256)] = 256
    """Largest number of clusters, or of bits, of a layer."""

    powers_of_two: bool = False
    """Whether only powers of two are taken, so that every index has a whole number of bits as in papers' tables."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One method."""

    name: str
    summary: str
    """One line."""

    paper: str
    """Source, or how it is meant."""

    config_type: type[ChannelConfig]
    build: Callable[[Problem, ChannelConfig], Method]

    build_first: Callable[[Problem, ChannelConfig], Method] | None = None
    """For recipes that decide storage: the search for the cut that comes before, over channels and kernels; None: the
    same share of every group is cut."""

    is_control: bool = False
    """Whether it stands beside agents for comparison; ``--controls all`` runs these."""

    is_rule: bool = False
    """Whether its policy follows from the target alone, in one trial."""

    follows: tuple[str, ...] = ()
    """Own fields that it takes over, as a control, from a recipe that has them as well."""

    decides: tuple[Decides, ...] = ("channels",)
    """What it can search over; the first is what ``compress`` does with it, a control takes what stands beside it."""

    transfers: bool = False
    """Whether what its agent learned on one network fits another one, so that it can be written and read."""

    extra: str = ""
    """Extra that must be installed; empty: none."""

    libraries: tuple[str, ...] = ()
    """What that extra installs."""

    @property
    def stores(self) -> bool:
        """Whether it decides how weights are stored, not which channels stay."""
        return self.decides[0] in ("clusters", "weight_bits")

    @property
    def is_live(self) -> bool:
        """Whether it trains one network and switches channels meanwhile."""
        return self.decides[0] == "kernels"

    def num_trials(self, config: ChannelConfig) -> int:
        """Policies that a search evaluates."""
        return 1 if self.is_rule else config.trials

    def check_installed(self) -> None:
        """Refuse at once what cannot run later.

        Raises:
            MissingExtraError: a library is not installed.
        """
        missing = [library for library in self.libraries if find_spec(library) is None]
        if missing:
            raise MissingExtraError(" and ".join(missing), self.extra)

    def configure(self, options: dict[str, object]) -> ChannelConfig:
        """Check ``options`` against the recipe's configuration.

        Raises:
            SearchError: an option is out of its range.
            UnknownNameError: there is no such option; the message gives the nearest one.
        """
        return validated(self.config_type, options, owner=f"recipe {self.name!r}")


def validated(config_type: type[Config], options: Mapping[str, object], *, owner: str) -> Config:
    """Check ``options`` against a configuration.

    Args:
        owner: whose options they are, for messages.

    Raises:
        SearchError: an option is out of its range.
        UnknownNameError: there is no such option; the message gives the nearest one.
    """
    try:
        return config_type.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        known = sorted(config_type.model_fields)
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"option of {owner}", field, known) from None
        raise SearchError(
            f"Option {field}={first['input']!r} of {owner}: {first['msg']}. Options: {', '.join(known)}."
        ) from None


registry: Registry[Recipe] = Registry("recipe")


def register(recipe: Recipe) -> Recipe:
    """Enter a recipe under its name."""
    registry.add(recipe.name, recipe)
    return recipe


def make_space(
    graph: ModelGraph, config: ChannelConfig, rules: Mapping[str, ChannelRule] | None = None
) -> ChannelSpace:
    """The channel groups that ``config`` allows to be cut, with their bounds and blocks; ``rules`` by group id.

    Raises:
        SearchError: ``round_to`` is no number yet.
    """
    if config.round_to == "auto":
        raise SearchError("round_to='auto' is found when a run begins; a space of its own needs a number, such as 8.")
    return channel_space(
        graph,
        lower_bound=config.lower_bound,
        round_to=config.round_to,
        round_from=config.round_from,
        prune_residual=config.prune_residual,
        rules=rules,
    )


def make_decisions(problem: Problem, config: ChannelConfig) -> Decisions:
    """What the counts of the problem's space mean."""
    space = problem.space
    if isinstance(space, StorageSpace):
        return StorageDecisions(problem.layers, kind=space.kind)
    if isinstance(space, JointSpace):
        return JointDecisions(
            space, _group_ids(problem.graph, space.channels), problem.layers, criterion=config.criterion
        )
    assert isinstance(space, ChannelSpace)
    group_ids = _group_ids(problem.graph, space)
    own = (problem.rules.get(group_id, ChannelRule()).criterion for group_id in group_ids)
    criteria = [criterion or config.criterion for criterion in own]
    return ChannelDecisions(group_ids, space.num_channels, criterion=criteria)


def make_env(
    problem: Problem, config: ChannelConfig, *, decoder: DecoderName, features: FloatArray | None = None
) -> LayerwiseEnv:
    """The walk over what is decided: groups with AMC's state features or others, layers with HAQ's."""
    return LayerwiseEnv(
        problem.space,
        problem.budget,
        _features(problem) if features is None else features,
        decisions=make_decisions(problem, config),
        decoder=decoder,
    )


def _features(problem: Problem) -> FloatArray:
    """Static features of the decisions; where groups and layers are decided together, which of both comes first."""
    space, graph = problem.space, problem.graph
    if isinstance(space, StorageSpace):
        return layer_features(graph, problem.layers)
    if not isinstance(space, JointSpace):
        assert isinstance(space, ChannelSpace)
        return group_features(graph, _group_ids(graph, space))
    groups = group_features(graph, _group_ids(graph, space.channels))
    layers = layer_features(graph, problem.layers)
    num_groups, num_features = groups.shape
    both = np.zeros((num_groups + len(layers), 1 + num_features + layers.shape[1]))
    both[num_groups:, 0] = 1.0
    both[:num_groups, 1 : 1 + num_features] = groups
    both[num_groups:, 1 + num_features :] = layers
    return both[space.order]


def _group_ids(graph: ModelGraph, space: ChannelSpace) -> list[str]:
    return [graph.channel_groups[int(index)].group_id for index in space.indices]


def without_budget(problem: Problem) -> Problem:
    """The same with nothing to be kept to, to measure single decisions."""
    return replace(problem, budget=Budget(limits=()))


def as_control(main: ChannelConfig, control: Recipe) -> ChannelConfig:
    """The control's configuration: what every search has, and what it follows, as of the recipe it stands beside."""
    shared = set(ChannelConfig.model_fields) | (set(control.follows) & set(type(main).model_fields))
    return control.config_type.model_validate(main.model_dump(include=shared))


def controls(decides: Decides = "channels") -> list[str]:
    """Names of the recipes that stand beside agents for comparison, sorted."""
    known = (registry.get(name) for name in registry.names())
    return [recipe.name for recipe in known if recipe.is_control and decides in recipe.decides]


def warmup_part(trials: int, *, part: int) -> int:
    """Warm-up trials of a search: one in ``part`` of its trials, but at least 10, if it has as many."""
    return min(trials, max(10, trials // part))


AMC_FALL = 45
"""Episodes in which noise that is multiplied by 0.95 after each, as in AMC's code, falls from 0.5 to 0.05."""


def amc_noise(num_warmup: int, *, trials: int) -> float:
    """Share of the trials after which noise is down to 0.05, as in AMC's code, or 0.8 where a search is too short."""
    return min(0.8, (num_warmup + AMC_FALL) / trials)


def quality_reward(evaluation: Evaluation, policy: Policy) -> float:
    """AMC's reward under a hard budget: the measured quality alone, since every policy keeps to the budget."""
    return accuracy_reward(evaluation.metrics.quality)


def storage_reward(evaluation: Evaluation, policy: Policy) -> float:
    """HAQ's reward under a hard budget."""
    return haq_reward(evaluation.metrics.quality)
