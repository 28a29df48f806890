"""What is sent to worker processes: it arrives whole, in memory that is shared until somebody writes."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tersenet import criteria
from tersenet.core.importing import import_object
from tersenet.errors import ModelError
from tersenet.evaluators.parcel import pack
from tersenet.models import build

pytest.importorskip("ray", reason="the extra ray is not installed")

TENSORS = {
    "empty": torch.zeros(0, 3),
    "a number": torch.tensor(7),
    "bfloat16": torch.randn(5, 3).bfloat16(),
    "bool": torch.tensor([True, False, True]),
    "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "transposed": torch.arange(6).reshape(2, 3).T,
    "part of a larger one": torch.arange(100_000).reshape(1000, 100)[3:5, ::7],
    "expanded": torch.tensor([1.0, 2.0])[:, None].expand(2, 50),
    "one entry twice": torch.arange(2).as_strided((2,), (0,), 1),
    "complex": torch.randn(3, dtype=torch.complex64),
    "learnt": nn.Parameter(torch.randn(3)),
    "with gradient": torch.ones(2, requires_grad=True),
}


class Holder:
    """Anything with attributes."""

    def __init__(self, **parts: object) -> None:
        self.__dict__.update(parts)


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_arrives_as_it_was(name: str, tmp_path: Path) -> None:
    sent = TENSORS[name]
    found = pack(sent, tmp_path / "numbers").opened()
    assert type(found) is type(sent)
    assert found.requires_grad == sent.requires_grad
    torch.testing.assert_close(found, sent, rtol=0, atol=0)
    if name == "channels last":
        assert found.stride() == sent.stride()


def test_only_what_is_seen_of_a_larger_tensor_is_sent(tmp_path: Path) -> None:
    pack(TENSORS["part of a larger one"], tmp_path / "numbers")
    assert (tmp_path / "numbers").stat().st_size < 1000  # 30 numbers of 8 bytes


def test_arrays_and_a_whole_network_arrive_as_they_were(tmp_path: Path) -> None:
    model = build("digits_cnn").eval()
    picture = torch.randn(2, 1, 8, 8)
    parcel = pack({"model": model, "array": np.arange(5.0)}, tmp_path / "numbers")
    found = parcel.opened()
    torch.testing.assert_close(found["model"](picture), model(picture), rtol=0, atol=0)
    assert found["array"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert len(parcel.code) < num_bytes / 10  # the numbers are in the file


def test_what_is_written_stays_with_the_one_who_wrote(tmp_path: Path) -> None:
    parcel = pack([torch.zeros(1000), np.zeros(1000)], tmp_path / "numbers")
    mine, yours = parcel.opened(), parcel.opened()
    mine[0] += 1.0
    mine[1] += 1.0
    assert float(mine[0].sum()) == float(mine[1].sum()) == 1000.0
    assert float(yours[0].sum()) == float(yours[1].sum()) == 0.0
    assert float(parcel.opened()[0].sum()) == 0.0


USER_CODE = """
import torch
SCALE = 3.0

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
    def forward(self, x):
        return scaled(self.linear(x))

def scaled(x):
    return x * SCALE
"""


def test_a_network_from_a_users_file_is_opened_where_nobody_has_imported_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user.py").write_text(USER_CODE)
    make = import_object(f"{tmp_path / 'user.py'}:Net", what="model")
    assert callable(make)
    model = make()
    parcel = pack(model, tmp_path / "numbers")
    monkeypatch.delitem(sys.modules, type(model).__module__)
    found = parcel.opened()
    # by hand: scaled by the 3 that the file defines
    torch.testing.assert_close(found(torch.ones(1, 2)), 3.0 * (model.linear.weight.sum(1) + model.linear.bias)[None])


def test_a_criterion_of_the_users_own_is_known_where_the_parcel_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(weight: torch.Tensor) -> torch.Tensor:
        return weight[:, 0]

    name = criteria.use(first)
    parcel = pack({"policy": name}, tmp_path / "numbers")
    monkeypatch.setattr("tersenet.criteria.base._own", {})
    assert parcel.opened() == {"policy": name}
    member = criteria.MemberView(torch.tensor([[1.0, 5.0], [3.0, 7.0]]), 0, ((0,), (1,)), None)
    # 1 and 3 over their mean
    torch.testing.assert_close(criteria.get(name)([member], 0), torch.tensor([0.5, 1.5]))


def test_what_cannot_be_sent_is_named_with_the_reason_and_the_way_out(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"\(model\): TypeError: cannot pickle '_thread.lock'.* set workers to 1"):
        pack(Holder(_task=None, _model=model), tmp_path / "numbers")
