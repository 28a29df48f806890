"""Zhan 2019: one agent decides channels and what stays inside kernels, a second one the bits of what is left.

Stage 1: a copy of the network is trained with information dropout; DDPG then walks groups and layers and decides the
share of channels that stay, most informative first, and the threshold on what the noise learned of kernels, positions
or weights inside (``unit_scale``). Its reward joins accuracy and the multiply-accumulates whose weight is not zero. The
winner is fine-tuned. Stage 2: another DDPG decides the bits of every layer of that network; its reward joins accuracy
and bytes. The result is fine-tuned again.

Source: Zhan, Lin, Cao 2019, arXiv:1912.02254 (kernels along height and width in the first version, single weights with
variational dropout in the second). State, reward and constants are not public; ours are AMC's accuracy-guaranteed
reward (He et al. 2018, arXiv:1802.03494, section 3.3) and HAQ's agent (Wang et al. 2019, arXiv:1811.08886).
Differs: accuracy in the loop is that of held-out images, not of the test set; channels are cut; both agents keep an
exact budget, of MACs whose weight is not zero and of bytes of the real file; thresholds inside kernels are
decided layer by layer, since the paper's is not public; noise says what goes, and the weights that stay are those of
the network as it came.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from tersenet.core.bounds import Count, Positive
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import KernelUnit, Policy
from tersenet.core.target import CostKind
from tersenet.envs import DecoderName, JointSpace, LayerwiseEnv, ResidualEnv
from tersenet.envs.rewards import error_log_cost
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    StorageConfig,
    as_control,
    make_decisions,
    quality_reward,
    register,
    registry,
)
from tersenet.recipes.wang2020 import haq_search
from tersenet.search import Method
from tersenet.search.searcher import Reward


class Zhan2019Config(StorageConfig, frozen=True, extra="forbid"):
    """The choices of both stages beside those of every search over storage."""

    criterion: str = "information_dropout"
    """Which channels of a group go first."""

    pruning_ratio: Annotated[float, Field(ge=0.0, le=0.0)] = 0.0
    """Unused: stage 1 decides the share of every group."""

    fewest: Annotated[int, Field(ge=2)] = 2
    """Smallest number of bits of a layer; 1 bit has no zero."""

    most: Annotated[int, Field(ge=2, le=8)] = 8
    """Largest number of bits of a layer."""

    repair: Literal["none", "recalibrate", "distill"] = "recalibrate"
    """What is done to a network before it is measured; least squares know nothing of pruned kernels."""

    prunes: Literal["both", "channels", "kernels"] = "both"
    """What stage 1 decides: channels, what stays inside kernels, or both."""

    unit: KernelUnit = "element"
    """What is pruned inside: single weights, 2-D kernels, or positions (of a layer or of each filter). Of kernels the
    noise tells less than their size does (``benchmarks/noise_scores.py``)."""

    unit_criterion: Literal["learned", "l1", "l2", "random"] = "learned"
    """Which units go first; learned: by information dropout, single weights by sparse variational dropout."""

    unit_scale: Literal["threshold", "share"] = "threshold"
    """What stage 1 decides of a layer's units: a threshold on what was learned, the same number for the same threshold
    in all layers, or the share that stays. Shares where nothing was learned, and for the control uniform."""

    reach: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """How far stage 1 goes from one threshold for all layers with every channel kept, either way and on the scale of
    what is asked for; None: anywhere. Only with thresholds, and not for the control uniform."""

    max_flops_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.3
    """Share of the multiply-accumulates that may be left after stage 1, those of zeros not counted. Bounds of the
    target on MACs and parameters hold beside it for what a dense runtime does."""

    max_nonzero_ratio: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the parameters that may be left after stage 1, zeros not counted; None: no bound but the target's."""

    units_lower_bound: Annotated[float, Field(gt=0.0, le=1.0)] = 0.02
    """Share of a layer's units that always stays."""

    noise_epochs: Annotated[int, Field(ge=0)] = 10
    """Epochs of training with noise, before the search."""

    noise_learning_rate: Positive = 0.02
    """Peak learning rate of that."""

    beta: Annotated[float, Field(ge=0.0)] = 3.0
    """Weight of information dropout's nats."""

    prune_trials: Count | None = None
    """Policies that stage 1 evaluates; None: as many as stage 2."""

    prune_epochs: Annotated[int, Field(ge=0)] = 20
    """Epochs of fine-tuning after stage 1."""

    prune_learning_rate: Positive | None = None
    """Peak learning rate of that; None: that of the fine-tuning after stage 2."""

    prune_decoder: Literal["level", "wall"] = "level"
    """How stage 1 holds its budget: one level for all decisions, or AMC's wall."""

    decoder: DecoderName = "sweep"
    """How stage 2 holds its budget: HAQ's sweep, AMC's wall, or one level."""

    bootstrap: bool = False
    """Whether the agents' critics add the next step's value to the reward, which every step carries in full already."""

    agent: Literal["ddpg", "uniform", "random", "cem"] = "ddpg"
    """What decides in both stages; the others are controls, to be tuned and delivered like the agent's network."""

    @property
    def learns_units(self) -> bool:
        """Whether noise inside kernels is needed."""
        return self.prunes != "channels" and self.unit_criterion == "learned"

    @property
    def learns_channels(self) -> bool:
        """Whether noise on channels is needed."""
        return self.prunes != "kernels" and self.criterion == "information_dropout"

    @property
    def decides_thresholds(self) -> bool:
        """Whether a layer's number means a threshold on its units' scores."""
        return self.learns_units and self.unit_scale == "threshold"

    @property
    def criterion_of_units(self) -> str:
        """Name of the criterion for units."""
        learned = "variational_dropout" if self.unit == "element" else "information_dropout"
        return learned if self.unit_criterion == "learned" else self.unit_criterion

    def of_stage_1(self) -> Zhan2019Config:
        """The same for the first stage: its trials, its fine-tuning and its decoder."""
        return self.model_copy(
            update={
                "trials": self.trials if self.prune_trials is None else self.prune_trials,
                "finetune_epochs": self.prune_epochs,
                "finetune_learning_rate": self.prune_learning_rate or self.finetune_learning_rate,
                "decoder": self.prune_decoder,
            }
        )


def build_pruning(problem: Problem, config: ChannelConfig) -> Method:
    """Stage 1; ``config`` as of ``of_stage_1``."""
    assert isinstance(config, Zhan2019Config)
    method = _method("zhan2019-prune", problem, config, cost="nonzero_macs")
    if config.reach is None or not config.decides_thresholds or config.agent == "uniform":
        return method
    assert isinstance(method.env, LayerwiseEnv)
    assert isinstance(problem.space, JointSpace)
    return replace(method, env=ResidualEnv(method.env, problem.space.one_threshold, reach=config.reach))


def build_bits(problem: Problem, config: ChannelConfig) -> Method:
    """Stage 2."""
    return _method("zhan2019", problem, config, cost="size_bytes")


def _method(name: str, problem: Problem, config: ChannelConfig, *, cost: CostKind) -> Method:
    assert isinstance(config, Zhan2019Config)
    reward = joint_reward(problem, config, cost)
    if config.agent != "ddpg":
        control = registry.get(config.agent)
        return replace(control.build(problem, as_control(config, control)), name=name, reward=reward)
    return haq_search(name, problem, config, decoder=config.decoder, reward=reward, bootstrap=config.bootstrap)


def joint_reward(problem: Problem, config: ChannelConfig, kind: CostKind) -> Reward:
    """Minus the error times the logarithm of a cost, over that of the original cost; with a metric of the user's own,
    whose unit is not known, the metric alone."""
    limit = next(limit for limit in problem.budget.limits if limit.kind == kind)
    decisions = make_decisions(problem, config)

    def reward(evaluation: Evaluation, policy: Policy) -> float:
        top1 = evaluation.metrics.top1
        if top1 is None:
            return quality_reward(evaluation, policy)
        cost = limit.table.cost(problem.space.whole(decisions.counts(policy)))
        return error_log_cost(1.0 - top1 / 100.0, cost) / math.log(limit.original)

    return reward


zhan2019 = register(
    Recipe(
        name="zhan2019",
        summary="Two agents, one after the other: channels and what stays inside kernels, then bits.",
        paper="Zhan, Lin, Cao 2019, arXiv:1912.02254",
        config_type=Zhan2019Config,
        build=build_bits,
        build_first=build_pruning,
        decides=("weight_bits",),
    )
)
