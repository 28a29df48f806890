from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.pack import Norms, as_stored, bytes_per_element, load, packed_bytes, read_info, save_packed
from tersenet.pack.index import Dtype


def a_net(seed: int = 0, channels: int = 6) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels, eps=1e-3), nn.ReLU()).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        model.get_buffer("1.running_var").abs_()
        model.get_buffer("1.num_batches_tracked").fill_(77)
    return model


def saved(path: Path, model: nn.Module, dtype: Dtype = "fp32", norms: Norms = "folded") -> int:
    return save_packed(path, model, plan=Plan(), policy=Policy(), provenance={}, dtype=dtype, norms=norms)


def by_hand(model: nn.Module, width: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    weight, bias, mean, var = (
        model.state_dict()[f"1.{leaf}"].double().numpy() for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    scale = (weight / np.sqrt(var + 1e-3)).astype(np.float32).astype(width)
    shift = (bias - mean * scale.astype(np.float64)).astype(np.float32).astype(width)
    return scale.astype(np.float32), shift.astype(np.float32)


@pytest.mark.parametrize(("dtype", "width"), [("fp32", np.float32), ("fp16", np.float16)])
def test_a_folded_norm_comes_back_as_the_scale_and_shift_worked_out_by_hand(
    dtype: Dtype, width: type[np.floating], tmp_path: Path
) -> None:
    model = a_net()
    saved(tmp_path / "net", model, dtype)
    loaded = load(tmp_path / "net", a_net(1)).state_dict()
    scale, shift = by_hand(model, width)
    np.testing.assert_array_equal(loaded["1.weight"].numpy(), scale)
    np.testing.assert_array_equal(loaded["1.bias"].numpy(), shift)
    np.testing.assert_array_equal(loaded["1.running_mean"].numpy(), np.zeros(6, np.float32))
    np.testing.assert_array_equal(loaded["1.running_var"].numpy(), np.full(6, 1 - 1e-3, np.float32))
    assert loaded["1.num_batches_tracked"].item() == 0
    stored = as_stored(model, dtype=dtype, norms="folded").state_dict()
    for name, values in loaded.items():
        assert torch.equal(stored[name], values)


def test_a_folded_network_computes_the_same_in_eval_mode(tmp_path: Path) -> None:
    model = a_net()
    saved(tmp_path / "net", model)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net", a_net(1))(images), model(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_folding_twice_changes_nothing(dtype: Dtype) -> None:
    for seed in range(5):
        once = as_stored(a_net(seed, channels=64), dtype=dtype, norms="folded")
        twice = as_stored(once, dtype=dtype, norms="folded")
        for name, values in once.state_dict().items():
            assert torch.equal(twice.state_dict()[name], values)


def test_statistics_and_the_count_take_no_bytes(tmp_path: Path) -> None:
    model = a_net(channels=64)
    saved(tmp_path / "net", model, "fp16", "full")
    full = read_info(tmp_path / "net")
    saved(tmp_path / "net", model, "fp16", "folded")
    folded = read_info(tmp_path / "net")
    assert full.payload_bytes - folded.payload_bytes == 64 * 2 * 2 + 8  # two vectors of fp16 and one int64
    by_name = {tensor.name: tensor for tensor in folded.tensors}
    assert by_name["1.running_var"].codec == "constant (dtype float32, value 0.999)"
    assert by_name["1.running_var"].num_bytes == by_name["1.num_batches_tracked"].num_bytes == 0
    assert by_name["1.weight"].bits_per_weight == 16
    widths = bytes_per_element(model, dtype="fp16", norms="folded")
    assert (widths["1.weight"], widths["1.running_mean"], widths["1.running_var"]) == (2.0, 0.0, 0.0)


class Special(nn.BatchNorm2d):
    """Could do anything with its statistics."""


def tied() -> nn.Module:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3))
    model[1].weight = model[0].weight
    return model


def broken() -> nn.Module:
    model = nn.BatchNorm2d(3)
    model.running_var = torch.tensor([1.0, -5.0, 1.0])
    return model


@pytest.mark.parametrize(
    "model",
    [
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.GroupNorm(1, 3),
        nn.LayerNorm(3),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        Special(3),
        tied(),
        broken(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_norm_that_cannot_be_folded_is_stored_in_full(model: nn.Module) -> None:
    def content(norms: Norms) -> bytes:
        return packed_bytes(model, plan=Plan(), policy=Policy(), provenance={}, norms=norms)

    assert content("folded") == content("full")


def test_a_norm_at_the_root_one_used_twice_and_other_number_formats_are_folded(tmp_path: Path) -> None:
    twice = nn.BatchNorm1d(3)
    models = [nn.BatchNorm2d(3), nn.Sequential(twice, twice), nn.BatchNorm1d(3).half(), nn.BatchNorm1d(3).double()]
    for model in models:
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(0.7)
        saved(tmp_path / "net", model)
        stored = as_stored(model, norms="folded").state_dict()
        loaded = load(tmp_path / "net", copy.deepcopy(model)).state_dict()
        kinds = {tensor.codec.partition(" ")[0] for tensor in read_info(tmp_path / "net").tensors}
        assert {"raw", "constant"} <= kinds
        for name, values in loaded.items():
            assert torch.equal(stored[name], values)
            assert values.dtype == model.state_dict()[name].dtype


def test_a_tiny_scale_is_stored_as_fp32_so_that_its_channel_keeps_it(tmp_path: Path) -> None:
    model = a_net()
    with torch.no_grad():
        model.get_parameter("1.weight")[2] = 1e-8
    saved(tmp_path / "net", model, "fp16")
    assert read_info(tmp_path / "net").widened == ("1.weight",)
    assert load(tmp_path / "net", a_net(1)).get_parameter("1.weight")[2].item() != 0.0


def test_another_word_for_norms_is_refused() -> None:
    with pytest.raises(ValueError, match="norms must be 'full' or 'folded', got 'fold'"):
        as_stored(a_net(), norms="fold")  # type: ignore[arg-type]
