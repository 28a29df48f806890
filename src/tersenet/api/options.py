"""What may change from run to run, and what a run gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tersenet.core.files import write_whole
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.core.progress import Progress, Silent
from tersenet.core.rules import ChannelRules
from tersenet.core.summary import RunSummary
from tersenet.measurement import Task
from tersenet.models import WeightsInfo
from tersenet.report import REPORT_FILE, RESULT_FILE, summary_table


@dataclass(frozen=True, kw_only=True)
class CompressOptions:
    """Everything about a run that has a sensible default."""

    trials: int | None = None
    """Policies to evaluate; None: the recipe's number."""

    finetune_epochs: int | None = None
    """Epochs of fine-tuning; None: the recipe's number."""

    recipe_options: Mapping[str, object] = field(default_factory=dict)
    """Fields of the recipe's configuration, for example ``{"criterion": "l2"}``."""

    rules: ChannelRules | None = None
    """What may be done to which layers; None: what the recipe's configuration says, for all of them."""

    controls: tuple[str, ...] = ("uniform",)
    """Recipes that run beside the agent, over the same policies, with the same budget and evaluator."""

    deliver: str | None = None
    """Whose best policy is tuned and delivered: the recipe, or one of ``controls``, for where the report says that it
    was confirmed to be better. Not part of what a run is: the same call with another name goes on from its trials.
    Where a recipe has two searches, the last one's. None: the recipe's."""

    agent: str | Path | None = None
    """File of an agent that was trained on another network (``agent.safetensors`` of its run), to begin with: its first
    trial is what it decides without having seen this network, and there is no warm-up. None: a new agent."""

    task: Task = field(default_factory=Task)
    """Metric and loss; classification by default."""

    device: str = "cpu"
    """Where to measure and to train: ``cpu`` or ``cuda``."""

    workers: int = 1
    """Trials that are measured at once, each in a process of its own; more than 1 needs the extra ``ray``. Agents are
    then told that many trials later, so that another number is another run."""

    out: str | Path | None = None
    """Folder of the run, which makes it resumable; None: a temporary one that goes with the result."""

    export: tuple[str, ...] = ()
    """Formats that are written beside ``model.onnx``: ``int8``, 8-bit weights and activations, for speed."""

    reference_top1: float | None = None
    """Quality to hold ``max_top1_drop`` against, where the weights have seen the search split."""

    weights_saw_search: bool = True
    """Whether the weights were trained on images of the search split; its absolute accuracies are then optimistic."""

    model_name: str = "model"
    """How the network is called in the report."""

    weights: WeightsInfo | None = None
    """Where the weights come from, for the provenance."""

    progress: Progress = field(default_factory=Silent)
    """Told of every stage."""

    command: str = ""
    """The command line, for the provenance."""


@dataclass(kw_only=True)
class Result:
    """A finished run."""

    model: nn.Module
    """The smaller network, exactly as the packed file holds it; a plain module in eval mode."""

    policy: Policy
    """What was decided, in the numbering of the original network."""

    plan: Plan
    """The same as explicit indices."""

    run: RunSummary
    """Everything that was measured."""

    target_reached: bool
    """Whether every bound of the target holds for what was delivered."""

    folder: Path
    """Where the files of the run are; without ``options.out`` they go when the result goes."""

    def summary(self) -> str:
        """Before and after as a plain-text table."""
        return summary_table(self.run)

    def save(self, out: str | Path) -> dict[str, int]:
        """Copy the delivered files to a folder, making it if need be.

        Returns:
            Bytes by file name.
        """
        target = Path(out)
        target.mkdir(parents=True, exist_ok=True)
        for name in self.delivered:
            source, copy = self.folder / name, target / name
            if copy.resolve() != source.resolve():
                write_whole(copy, source.read_bytes())
        return {name: (target / name).stat().st_size for name in self.delivered}

    @property
    def delivered(self) -> list[str]:
        """Names of the delivered files."""
        return [name for name in DELIVERED if (self.folder / name).exists()]


STUDY_FILE = "study.sqlite"
PACKED_FILE = "model.tersenet"
ONNX_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"
POLICY_FILE = "policy.json"
AGENT_FILE = "agent.safetensors"
DELIVERED = (PACKED_FILE, ONNX_FILE, INT8_FILE, POLICY_FILE, RESULT_FILE, REPORT_FILE, AGENT_FILE)

EXPORTS = ("int8",)
"""What ``CompressOptions.export`` may name."""
