"""open_data: names, paths and factories."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tersenet.data import open_data
from tersenet.errors import DataError, NotFoundError, UnknownNameError

BATCHES = "import torch\nparts = [[(torch.zeros(4, 2), torch.zeros(4))] for _ in range(3)]\n"


@pytest.fixture(autouse=True)
def _restored_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def factory(folder: Path, body: str) -> str:
    path = folder / "my_data.py"
    path.write_text(f"{BATCHES}def make():\n    {body}\n")
    return f"{path}:make"


def test_digits_need_no_path() -> None:
    assert open_data("digits").name == "digits"


@pytest.mark.parametrize(
    "body",
    [
        "return tuple(parts)",
        "return parts",
        "return dict(zip(['train', 'search', 'test'], parts))",
        "from tersenet.data import from_batches\n    return from_batches(*parts)",
    ],
)
def test_a_factory_may_return_three_parts_or_a_data(tmp_path: Path, body: str) -> None:
    data = open_data(factory(tmp_path, body))
    assert data.search.source.num_samples == 4


def test_a_data_set_of_a_factory_is_called_by_its_specification(tmp_path: Path) -> None:
    spec = factory(tmp_path, "return tuple(parts)")
    assert open_data(spec).name == spec


@pytest.mark.parametrize("name", ["mnist", "cifar10", "folder"])
def test_the_path_is_handed_on(name: str) -> None:
    with pytest.raises(NotFoundError, match=f"{name}: .*nowhere/at/all"):
        open_data(f"{name}:nowhere/at/all")


@pytest.mark.parametrize("spec", ["cifar10", "cifar10:", "mnist"])
def test_a_missing_path_is_asked_for(spec: str) -> None:
    with pytest.raises(DataError, match=r"lacks the path\. Write (cifar10|mnist):PATH"):
        open_data(spec)


@pytest.mark.parametrize("spec", ["cifar:/data", "cifar", "digit"])
def test_a_misspelt_name_is_answered_with_the_nearest(spec: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean '(cifar10|digits)'"):
        open_data(spec)


@pytest.mark.parametrize(
    ("body", "message"),
    [("return 5", "gave a int"), ("return parts[:2]", "gave a list of 2"), ("return {'train': 1}", "gave a dict of 1")],
)
def test_a_factory_that_returns_something_else_is_refused(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{message}.*It must return a Data, a tuple"):
        open_data(factory(tmp_path, body))


def test_a_factory_that_fails_gives_its_own_message(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="failed when called without arguments: KeyError: 'disk'"):
        open_data(factory(tmp_path, "raise KeyError('disk')"))


def test_our_own_errors_pass_through_a_factory(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="mnist"):
        open_data(factory(tmp_path, "from tersenet.data import mnist\n    return mnist('nowhere')"))


def test_a_file_without_a_factory_name_says_what_to_add() -> None:
    with pytest.raises(DataError, match="Add a colon and a name"):
        open_data("my_data.py")
