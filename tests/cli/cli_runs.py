"""Stand-ins for the api: what it was called with is kept, and a small run comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tersenet.core.metrics import Metrics
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.summary import Check, GroupRow, Inspection, LayerRow, Reachable, RunSummary

FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


def small_run(**changes: Any) -> RunSummary:
    run = RunSummary(
        version="0.1.0",
        model="net",
        data="digits",
        recipe="he2018",
        recipe_config={},
        seed=0,
        workers=1,
        target=None,
        policy=Policy(channels={"conv": ChannelDecision(pruning_ratio=0.5)}),
        dense=Metrics(top1=90.0, macs=1000, num_params=100, num_samples=500, split="test"),
        compressed=Metrics(top1=89.0, macs=400, num_params=50, size_bytes=200, num_samples=500, split="test"),
        dense_search=None,
        untuned=None,
        original_bytes=400,
        score_name="top-1",
        mcnemar=None,
        layers=(),
        groups=(),
        trials=(),
        confirmed=(),
        epochs=(),
        checks=(Check(name="cut network equals zeroed network", value=3e-7, limit=1e-4, passed=True),),
        caveats=("Search accuracies are optimistic.",),
        seconds={},
        files={},
        provenance={},
    )
    return run.model_copy(update=changes)


def small_inspection(smallest: float = 200.0) -> Inspection:
    layer = LayerRow(
        name="conv",
        op="conv",
        shape_before=(4, 1, 3, 3),
        shape_after=(4, 1, 3, 3),
        macs_before=1000,
        macs_after=1000,
        params_before=40,
        params_after=40,
        group_id="conv",
    )
    group = GroupRow(
        group_id="conv", num_channels=4, num_kept=4, producers=("conv",), prunable=False, reason="[feeds] the output"
    )
    return Inspection(
        model="net",
        data="digits",
        macs=1000,
        num_params=100,
        original_bytes=400,
        layers=(layer,),
        groups=(group,),
        reachable=(Reachable(kind="macs", original=1000.0, smallest=smallest, bound=500.0),),
        not_counted=(),
        search_seconds=60.0,
        finetune_seconds=300.0,
        notes=(),
    )


@dataclass
class FakeResult:
    """As much of a result as the command line reads."""

    run: RunSummary
    target_reached: bool = True

    def save(self, out: Path) -> dict[str, int]:
        return {"model.tersenet": 200, "report.html": 1000}


@dataclass
class Calls:
    """Keeps what a replaced function was called with, and answers with ``answer`` or raises it."""

    answer: object
    made: list[dict[str, Any]] = field(default_factory=list)

    @property
    def function(self) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            self.made.append({"positional": positional, **named})
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        return call

    @property
    def only(self) -> dict[str, Any]:
        assert len(self.made) == 1
        return self.made[0]
