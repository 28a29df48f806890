"""What a user allows: rules for channels at three levels, each narrower one refining the wider ones.

``everything`` holds for all layers, ``by_type`` for layers of one operator, ``by_name`` for a layer, for all layers
inside a module, or for a pattern. Where several entries of ``by_name`` match, the later one has the last word. None in
place of a rule leaves these layers alone; a narrower rule takes them back in. So ``everything=None`` with one module in
``by_name`` compresses that module and nothing else.

A rule for a layer is about the channels that it *produces*. Layers that produce the same channels (a residual sum)
share a decision: if one of them is left alone, so are all.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from tersenet.core.bounds import Count

LayerType = Literal["conv", "conv_transpose", "linear"]
"""``Layer.op`` of a traced network."""


class ChannelRule(BaseModel, frozen=True, extra="forbid"):
    """What holds for some layers; None leaves it to a wider rule, in the end to the recipe's configuration."""

    lower_bound: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the channels that always stays; 1 keeps them all."""

    round_to: Count | None = None
    """Channels are removed in blocks of this many, however few there are."""

    pruning_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Share of the channels that is removed, at most, and not searched; bounds and blocks do not hold for it."""

    criterion: str | None = None
    """Which channels go first: the name of a criterion, or what ``criteria.use`` gives for a function."""

    def over(self, wider: ChannelRule | None) -> ChannelRule:
        """This rule, with what it leaves open taken from a wider one."""
        given = {} if wider is None else wider.model_dump(exclude_none=True)
        return ChannelRule.model_validate(given | self.model_dump(exclude_none=True))


def _none_for_false(value: object) -> object:
    return None if value is False else value


Choice = Annotated[ChannelRule | None, BeforeValidator(_none_for_false)]
"""A rule, or None to leave alone; TOML, which has no null, writes ``false``."""


class ChannelRules(BaseModel, frozen=True, extra="forbid"):
    """Rules for the channels of a network."""

    everything: Choice = ChannelRule()
    """For all layers."""

    by_type: dict[LayerType, Choice] = {}
    """By operator."""

    by_name: dict[str, Choice] = {}
    """By the name of a layer or of a module around it, as in ``named_modules()``, or by a pattern with ``*``, ``?``
    and ``[...]``, where ``*`` also matches dots."""

    def rule(self, layer: str, op: str) -> tuple[ChannelRule | None, str]:
        """What holds for a layer, and the entry that said the last word.

        Args:
            layer: its name.
            op: its operator.
        """
        found, said_by = self.everything, "everything"
        for kind, own in self.by_type.items():
            if kind == op:
                found, said_by = (None if own is None else own.over(found)), f"by_type {kind!r}"
        for pattern, own in self.by_name.items():
            if matches(pattern, layer):
                found, said_by = (None if own is None else own.over(found)), f"by_name {pattern!r}"
        return found, said_by

    @property
    def criteria(self) -> tuple[str, ...]:
        """Names of all criteria that are mentioned, each once."""
        rules = (self.everything, *self.by_type.values(), *self.by_name.values())
        return tuple(dict.fromkeys(rule.criterion for rule in rules if rule is not None and rule.criterion))


def matches(pattern: str, layer: str) -> bool:
    """Whether an entry of ``by_name`` is about a layer."""
    return layer == pattern or layer.startswith(f"{pattern}.") or fnmatchcase(layer, pattern)
