from __future__ import annotations

import copy
import errno
import hashlib
import json
import lzma
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from packed_nets import TinyNet, cut_by_hand, numbered, tiny_plan, tiny_policy
from torch import nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import Policy, Raw
from tersenet.errors import ArtifactError, ModelError, NotFoundError, PolicyError
from tersenet.pack import as_stored, bytes_per_element, estimate_overhead, load, packed_bytes, read_info, save_packed

FACTS = {"recipe": "by hand", "seed": "0"}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


def saved(path: Path) -> tuple[nn.Module, nn.Module]:
    original = numbered(TinyNet()).eval()
    small = cut_by_hand(original)
    save_packed(path, small, plan=tiny_plan(), policy=tiny_policy(), provenance=FACTS)
    return original, small


def plain(path: Path, model: nn.Module, dtype: Literal["fp32", "fp16"] = "fp32", policy: Policy | None = None) -> int:
    return save_packed(path, model, plan=Plan(), policy=policy or Policy(), provenance={}, dtype=dtype)


def test_a_loaded_network_computes_what_the_saved_one_does(tmp_path: Path) -> None:
    original, small = saved(tmp_path / "net.tersenet")
    before = copy.deepcopy(original.state_dict())

    fresh = TinyNet()
    loaded = load(tmp_path / "net.tersenet", fresh.train())

    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), small(IMAGES))  # the numbers of numbered() are exact in fp16
        assert not torch.allclose(loaded(IMAGES), original(IMAGES))
    assert not loaded.training
    assert fresh.training
    assert fresh.conv.weight.shape == (4, 3, 3, 3)
    assert loaded.get_parameter("head.weight") is loaded.get_parameter("twin.weight")
    assert {name: values.dtype for name, values in loaded.state_dict().items()} == {
        name: values.dtype for name, values in before.items()
    }


def test_the_returned_size_is_that_of_the_file_and_info_adds_up_to_it(tmp_path: Path) -> None:
    path = tmp_path / "net.tersenet"
    small = cut_by_hand(numbered(TinyNet()))
    size = save_packed(path, small, plan=tiny_plan(), policy=tiny_policy(), provenance=FACTS)
    info = read_info(path)
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert size == path.stat().st_size == info.size_bytes
    assert header + info.payload_bytes + info.index_bytes == size
    # by hand: conv 81 + 3, norm 4 x 3, twin's bias 5, each 4 bytes; head 60 + 5 in fp16; counter 8, mask 5, steps 2
    assert info.payload_bytes == 4 * (81 + 3 + 12 + 5) + 2 * 65 + 8 + 5 + 2
    assert (info.version, info.plan, info.policy, info.provenance) == (3, tiny_plan(), tiny_policy(), FACTS)
    tensors = {tensor.name: (tensor.shape, tensor.codec, tensor.num_bytes) for tensor in info.tensors}
    assert tensors["conv.weight"] == ((3, 3, 3, 3), "raw float32", 324.0)
    assert tensors["head.weight"] == ((5, 12), "raw float16", 120.0)
    assert tensors["twin.weight"] == ((5, 12), "same as head.weight", 0.0)
    assert tensors["bn.num_batches_tracked"] == ((), "raw int64", 8.0)
    assert tensors["mask"] == ((5,), "raw bool", 5.0)
    assert list(tensors) == list(small.state_dict())


def test_safetensors_itself_reads_the_outer_file(tmp_path: Path) -> None:
    path = tmp_path / "net.tersenet"
    _, small = saved(path)
    outer = safetensors.numpy.load_file(path)
    assert {name: values.dtype for name, values in outer.items()} == {"payload": np.uint8, "index": np.uint8}
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    parameters = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}
    index = lzma.decompress(outer["index"].tobytes(), lzma.FORMAT_RAW, filters=[parameters])
    digest = hashlib.sha256(outer["payload"].tobytes() + outer["index"].tobytes()).hexdigest()
    assert metadata == {"tersenet_format": "3", "index_bytes": str(len(index)), "sha256": digest}
    weight = small.state_dict()["conv.weight"].numpy().astype("<f4").tobytes()
    position = list(small.state_dict()).index("conv.weight")
    earlier = list(small.state_dict().values())[:position]
    start = sum(values.numel() * values.element_size() for values in earlier)  # all before it stand unshortened
    assert outer["payload"].tobytes()[start : start + len(weight)] == weight
    assert json.loads(index)["provenance"] == FACTS


def test_equal_input_gives_equal_bytes() -> None:
    def content() -> bytes:
        small = cut_by_hand(numbered(TinyNet()))
        return packed_bytes(small, plan=tiny_plan(), policy=tiny_policy(), provenance=FACTS)

    assert content() == content()


def test_fp16_values_are_numpys_roundings_and_as_stored_agrees_with_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 2)).eval()
    plain(tmp_path / "half", model, "fp16", Policy(storage={"2": Raw(dtype="fp32")}))
    loaded = load(tmp_path / "half", copy.deepcopy(model)).state_dict()
    stored = as_stored(model, policy=Policy(storage={"2": Raw(dtype="fp32")}), dtype="fp16").state_dict()
    for name, values in model.state_dict().items():
        expected = values.numpy()
        if values.is_floating_point() and not name.startswith("2."):
            expected = expected.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(loaded[name].numpy(), expected)
        np.testing.assert_array_equal(stored[name].numpy(), expected)
    assert not torch.equal(model.state_dict()["0.weight"], stored["0.weight"])


def test_what_fp16_would_spoil_is_stored_as_fp32_and_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        values = model.state_dict()
        values["0.weight"].copy_(torch.tensor([[1e5, 1.0, 2.0], [0.1, 0.2, 0.3]]))  # 1e5 > 65504
        values["0.bias"].copy_(torch.tensor([1.0, 1e-9]))  # fades beside 1.0: fits
        values["1.running_var"].copy_(torch.tensor([1.0, 1e-9]))  # is divided by: does not
        values["1.running_mean"].copy_(torch.tensor([float("-inf"), 1.0]))  # fp16 has infinity
        values["2.weight"].copy_(torch.full((2, 2), 1.1e-7))  # as a whole below what fp16 resolves
    plain(tmp_path / "net", model, "fp16")
    info = read_info(tmp_path / "net")
    assert info.widened == ("0.weight", "1.running_var", "2.weight")
    loaded = load(tmp_path / "net", copy.deepcopy(model))
    for name in info.widened:
        assert torch.equal(loaded.state_dict()[name], model.state_dict()[name])
    widths = bytes_per_element(model, dtype="fp16")
    assert widths["0.weight"] == widths["1.running_var"] == 4.0
    assert widths["0.bias"] == widths["1.weight"] == 2.0
    assert "1.num_batches_tracked" not in widths


def test_number_formats_of_the_network_survive(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = nn.Linear(3, 2).to(dtype)
        plain(tmp_path / "net", model)
        loaded = load(tmp_path / "net", nn.Linear(3, 2).to(dtype))
        weight = loaded.get_parameter("weight")
        assert weight.dtype == dtype
        # fp32 holds half and bfloat16 exactly, a double it rounds
        assert torch.equal(weight, model.weight.float().to(dtype))
    wide = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(wide.weight, 1e300)
    plain(tmp_path / "net", wide)
    assert load(tmp_path / "net", nn.Linear(1, 1, bias=False).double()).get_parameter("weight").item() == 1e300


def test_a_network_without_tensors_can_be_saved(tmp_path: Path) -> None:
    plain(tmp_path / "net", nn.ReLU())
    assert read_info(tmp_path / "net").tensors == ()
    assert isinstance(load(tmp_path / "net", nn.ReLU()), nn.ReLU)


def test_a_full_disk_leaves_nothing_behind_and_the_older_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "net.tersenet"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="No space left"):
        plain(path, nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == []
    path.write_bytes(b"older")
    with pytest.raises(ArtifactError, match="No space left"):
        plain(path, nn.Linear(2, 2))
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere"):
        plain(tmp_path / "nowhere" / "net", nn.Linear(2, 2))
    with pytest.raises(NotFoundError, match="absent"):
        load(tmp_path / "absent", nn.Linear(2, 2))


def test_a_folder_in_the_place_of_the_file_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(ArtifactError, match="could not be written"):
        plain(tmp_path / "net", nn.Linear(2, 2))
    assert list(tmp_path.iterdir()) == [tmp_path / "net"]


class Wider(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)


class Longer(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.tail = nn.Linear(5, 5)


class Renamed(TinyNet):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.conv
        del self.conv


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Wider, r"'conv.bias' has shape|'conv.weight' has shape|'bn.weight'"),
        (Longer, r"only the model has the tensor 'tail.weight'"),
        (Renamed, r"is 'conv.weight' in the file and 'bn.weight' in the model"),
        (lambda: nn.Linear(2, 2), r"tensor 0 is 'mask' in the file and 'weight' in the model"),
    ],
)
def test_another_architecture_is_refused_with_the_first_difference(
    other: type[nn.Module], message: str, tmp_path: Path
) -> None:
    saved(tmp_path / "net")
    if other is Wider:  # the cut gives the same shapes, so only a layer that is not cut can differ
        path = tmp_path / "net"
        plain(path, TinyNet())
        with pytest.raises(ArtifactError, match=r"'conv.weight' has shape \(6, 3, 3, 3\)"):
            load(path, other())
        return
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "net", other())


def test_a_plan_that_reaches_beyond_the_model_is_refused(tmp_path: Path) -> None:
    plan = Plan(keeps=((0, 7),), cuts=(Cut(tensor="weight", axis=0, keep=0),))
    save_packed(tmp_path / "net", nn.Linear(2, 2), plan=plan, policy=Policy(), provenance={})
    with pytest.raises(ArtifactError, match="keeps position 7 on axis 0 of 'weight'"):
        load(tmp_path / "net", nn.Linear(2, 2))


@pytest.mark.parametrize("attribute", ["forward", "absent", "weight"])
def test_a_plan_cannot_put_a_number_in_place_of_anything_but_a_number(attribute: str, tmp_path: Path) -> None:
    plan = Plan(attributes={"": {attribute: 3}})
    save_packed(tmp_path / "net", nn.Linear(2, 2), plan=plan, policy=Policy(), provenance={})
    with pytest.raises(ArtifactError, match=f"sets '{attribute}'"):
        load(tmp_path / "net", nn.Linear(2, 2))


def test_a_storage_decision_for_an_unknown_layer_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="Did you mean 'conv'"):
        plain(tmp_path / "net", TinyNet(), policy=Policy(storage={"cnv": Raw()}))


def test_a_state_that_cannot_be_stored_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("waves", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ModelError, match=r"'waves' has number format torch.complex64"):
        plain(tmp_path / "net", model)


def test_overhead_is_exact_for_a_known_file_and_close_for_an_unknown_one(tmp_path: Path) -> None:
    small = cut_by_hand(numbered(TinyNet()))
    size = save_packed(tmp_path / "net", small, plan=tiny_plan(), policy=tiny_policy(), provenance=FACTS)
    # values by hand as above: fp32 101, fp16 65
    exact = estimate_overhead(small, tiny_plan(), policy=tiny_policy(), provenance=FACTS)
    assert exact == size - 4 * 101 - 2 * 65
    guess = estimate_overhead(TinyNet())
    assert exact <= guess <= 3 * exact
