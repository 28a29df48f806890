"""load_weights and save_weights: formats, misfits, damage."""

from __future__ import annotations

import copy
import hashlib
import os
import stat
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tersenet.errors import NotFoundError, WeightsError
from tersenet.models import SPLIT_KEY, load_weights, save_weights


def net(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 2, 1))


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved, loaded = net(), net()
    save_weights(saved, tmp_path / "deep" / "net.safetensors", metadata={"who": "me"})
    info = load_weights(loaded, tmp_path / "deep" / "net.safetensors")
    assert equal(saved, loaded)
    raw = (tmp_path / "deep" / "net.safetensors").read_bytes()
    assert info.sha256 == hashlib.sha256(raw).hexdigest()
    assert info.metadata["who"] == "me"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("metadata", "saw_search"), [({}, None), ({SPLIT_KEY: "train"}, False), ({SPLIT_KEY: "train+search"}, True)]
)
def test_only_a_file_that_says_so_has_not_seen_the_search_split(
    tmp_path: Path, metadata: dict[str, str], saw_search: bool | None
) -> None:
    save_weights(net(), tmp_path / "net.safetensors", metadata=metadata)
    info = load_weights(net(), tmp_path / "net.safetensors")
    assert info.saw_search is saw_search
    assert info.trained_on == metadata.get(SPLIT_KEY)


@pytest.mark.parametrize("form", ["plain", "module", "compiled", "nested", "both"])
def test_state_dicts_are_read_in_their_usual_forms(tmp_path: Path, form: str) -> None:
    saved, loaded = net(), net()
    state = saved.state_dict()
    prefix = {"module": "module.", "both": "module.", "compiled": "_orig_mod."}.get(form, "")
    state = OrderedDict((prefix + name, value) for name, value in state.items())
    torch.save({"epoch": 3, "state_dict": state} if form in ("nested", "both") else state, tmp_path / "net.pt")
    load_weights(loaded, tmp_path / "net.pt")
    assert equal(saved, loaded)


def test_counters_that_old_files_lack_are_no_misfit(tmp_path: Path) -> None:
    state = {name: value for name, value in net().state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "net.pt")
    loaded = net()
    load_weights(loaded, tmp_path / "net.pt")
    assert torch.equal(loaded.state_dict()["0.weight"], state["0.weight"])


def test_tied_weights_are_saved_once_and_come_back_tied(tmp_path: Path) -> None:
    saved, loaded = tied(), tied()
    save_weights(saved, tmp_path / "net.safetensors", metadata={})
    assert set(load_file(tmp_path / "net.safetensors")) == {"0.weight", "0.bias", "1.bias"}
    load_weights(loaded, tmp_path / "net.safetensors")
    assert equal(saved, loaded)
    assert loaded.get_parameter("0.weight") is loaded.get_parameter("1.weight")


def test_half_precision_files_are_read_into_fp32_networks(tmp_path: Path) -> None:
    saved = net()
    save_weights(copy.deepcopy(saved).half(), tmp_path / "net.safetensors", metadata={})
    loaded = net()
    load_weights(loaded, tmp_path / "net.safetensors")
    weight = loaded.get_parameter("0.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, saved.get_parameter("0.weight").half().float())


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"weights: .*nowhere\.pt does not exist"):
        load_weights(net(), tmp_path / "nowhere.pt")


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = net().state_dict()
    state["extra.weight"] = state.pop("2.weight")
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"1 missing: 2\.weight; 1 unexpected: extra\.weight"):
        load_weights(net(), tmp_path / "net.pt")


def test_only_the_first_few_of_many_keys_are_listed(tmp_path: Path) -> None:
    torch.save({f"key{number}": torch.zeros(1) for number in range(9)}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"9 unexpected: key0, key1, key2, \.\.\."):
        load_weights(net(), tmp_path / "net.pt")


def test_wrong_shapes_are_listed_and_the_network_is_left_alone(tmp_path: Path) -> None:
    save_weights(net(width=5), tmp_path / "net.safetensors", metadata={})
    model = net(width=4)
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match=r"of the wrong shape: 0\.bias \(5,\) instead of \(4,\)"):
        load_weights(model, tmp_path / "net.safetensors")
    assert equal(model, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    saved = net()
    saved.get_parameter("2.weight").data[0, 0] = value
    save_weights(saved, tmp_path / "net.safetensors", metadata={})
    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(WeightsError, match=r"holds NaN or infinity in 2\.weight"):
        load_weights(model, tmp_path / "net.safetensors")
    assert equal(model, before)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("keep", [0, 10, -20])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, keep: int) -> None:
    path = tmp_path / f"net.{suffix}"
    if suffix == "pt":
        torch.save(net().state_dict(), path)
    else:
        save_weights(net(), path, metadata={})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"is no whole safetensors file|cannot be read as a state dict"):
        load_weights(net(), path)


def test_a_whole_pickled_network_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"Whole pickled networks are refused.*save model\.state_dict\(\)"):
        load_weights(net(), tmp_path / "net.pt")


@pytest.mark.parametrize("content", [torch.zeros(3), {"weight": "text"}, [1, 2]])
def test_files_without_a_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_weights(net(), tmp_path / "net.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(net(), path, metadata={})
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tersenet.models.weights.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(net(), path, metadata={})
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX systems")
def test_others_may_read_the_file(tmp_path: Path) -> None:
    save_weights(net(), tmp_path / "net.safetensors", metadata={})
    assert stat.S_IMODE((tmp_path / "net.safetensors").stat().st_mode) & 0o044
