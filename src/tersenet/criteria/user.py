"""A user's own criterion: a function, or where one is, entered under a name that a policy can hold.

Policies name criteria and never import them, so that a policy from elsewhere cannot run code: a criterion of one's own
is entered with ``use`` in every process that needs it (worker processes get it with the job).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tersenet.core.importing import import_object
from tersenet.criteria.base import Criterion, MemberView, combine, enter_own, get, own
from tersenet.errors import ModelError, TersenetError


def use(criterion: str | Callable[..., Tensor]) -> str:
    """Enter a criterion of one's own, and get the name to give wherever a criterion is named.

    Args:
        criterion: ``score(weight)``, from one weight with the channels on its first axis, shape (O, F), to one score
            per channel, shape (O,), low for what goes first; or ``score(members, seed)``, as in ``Criterion``. Or where
            such a function is: ``path/to/file.py:name`` or ``package.module:name``. A known name is taken as it is. The
            same function entered again replaces the one before.

    Raises:
        UnknownNameError: nothing has this name.
        NotFoundError: there is no such file or module.
        ModelError: what was found is no function of one or two arguments.
    """
    if callable(criterion):
        name = f"{criterion.__module__}:{getattr(criterion, '__qualname__', type(criterion).__qualname__)}"
        enter_own(name, _made(name, criterion))
        return name
    if ":" in criterion and criterion not in own():
        found = import_object(criterion, what="criterion")
        if not callable(found):
            raise ModelError(f"criterion={criterion!r} is a {type(found).__name__}, it must be a function.")
        enter_own(criterion, _made(criterion, found))
    get(criterion)
    return criterion


def use_again(criteria: Mapping[str, Criterion]) -> None:
    """Enter what ``own`` gave in another process."""
    for name, criterion in criteria.items():
        enter_own(name, criterion)


def _made(name: str, score: Callable[..., Any]) -> Criterion:
    """A criterion whose failures name it, and whose scores are one per channel."""
    takes_members = _num_arguments(name, score) == 2

    def criterion(members: Sequence[MemberView], seed: int) -> Tensor:
        try:
            if takes_members:
                return _scores(name, score(members, seed), len(members[0].positions))
            found = []
            for member in members:
                slices = member.slices()
                found.append(_scores(name, score(slices), len(slices))[member.position_index()].sum(dim=1))
            return combine(found)
        except TersenetError:
            raise
        except Exception as error:
            raise ModelError(f"criterion={name!r} fails: {type(error).__name__}: {error}") from error

    return criterion


def _num_arguments(name: str, score: Callable[..., Any]) -> int:
    parameters = inspect.signature(score).parameters.values()
    needed = [one for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    if len(needed) not in (1, 2) or any(one.kind in (one.VAR_POSITIONAL, one.KEYWORD_ONLY) for one in needed):
        raise ModelError(
            f"criterion={name!r} must be a function of one weight, or of (members, seed); it takes "
            f"({', '.join(one.name for one in needed)})."
        )
    return len(needed)


def _scores(name: str, found: Any, count: int) -> Tensor:
    if not isinstance(found, Tensor) or tuple(found.shape) != (count,) or not bool(torch.isfinite(found).all()):
        what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(f"criterion={name!r} must give {count} finite numbers as a tensor of one axis, got {what}.")
    return found.detach()
