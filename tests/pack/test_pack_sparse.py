"""Weights many of whose kernels are zero: bytes by hand, exact values, damage, and a file that stays readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from packed_nets import read_elsewhere
from torch import nn

from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.errors import ArtifactError
from tersenet.pack import load, packed_bytes, read_info, save_packed
from tersenet.pack.codecs import Params, codec, encode_raw
from tersenet.pack.sparse import without_zeros

GOLDEN_3 = Path(__file__).parent / "golden" / "v3-sparse.tersenet"
FACTS = {"made": "by the tests of version 3"}


def sparse_net() -> nn.Sequential:
    """Two of the 3 x 4 kernels of a convolution, and a linear layer with one weight in each row; numbers fp16 holds."""
    net = nn.Sequential(nn.Conv2d(4, 3, 3, bias=False), nn.Flatten(), nn.Linear(16, 5))
    with torch.no_grad():
        first, last = net.get_parameter("0.weight"), net.get_parameter("2.weight")
        first.zero_()
        first[0, 1] = torch.arange(9.0).view(3, 3) / 8  # its first number is zero, and stays in the kernel
        first[2, 3] = -torch.arange(1.0, 10.0).view(3, 3)
        last.copy_(torch.eye(5, 16) * 0.25)
        net.get_parameter("2.bias").copy_(torch.arange(5.0))
    return net


def test_the_bytes_are_bits_of_the_kernels_and_their_numbers() -> None:
    values = np.zeros((2, 5, 1, 2), np.float32)
    values[0, 3], values[1, 4] = [[1.0, 0.0]], [[-2.0, 3.0]]
    encoded = without_zeros(encode_raw(values, "float16"), values.shape)
    assert (encoded.codec, encoded.params) == ("sparse", {"dtype": "float16", "kernels": 2})
    # by hand: kernels 3 and 9 of ten, lowest bit first
    assert encoded.plain == bytes([0b00001000, 0b00000010]) + np.array([1, 0, -2, 3], "<f2").tobytes()
    assert codec("sparse").num_plain(values.shape, encoded.params) == 2 + 2 * 2 * 2
    decoded = codec("sparse").decode(encoded.plain, np.empty(0), values.shape, encoded.params)
    np.testing.assert_array_equal(decoded, values)


def test_what_would_not_be_shorter_stays_plain() -> None:
    full = np.ones((4, 4, 3, 3), np.float32)
    for values in (full, full[0, 0, 0], np.zeros((0, 3), np.float32), np.zeros((3, 3), np.int64)):
        raw = encode_raw(values, values.dtype.name)
        assert without_zeros(raw, values.shape) is raw
    full[0, 0] = -0.0  # not the same bits as zero
    assert without_zeros(encode_raw(full, "float32"), full.shape).codec == "raw"


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_network_comes_back_bit_for_bit_in_fewer_bytes(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "net"
    size = save_packed(path, sparse_net(), plan=Plan(), policy=Policy(), provenance={}, dtype=dtype)  # type: ignore[arg-type]
    loaded = load(path, sparse_net())
    for name, values in sparse_net().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], values), name
    width = 4 if dtype == "fp32" else 2
    plain = {tensor.name: tensor.plain_bytes for tensor in read_info(path).tensors}
    # by hand: 12 bits and 18 numbers; 80 bits and 5 numbers; 5 numbers
    assert plain == {"0.weight": 2 + 18 * width, "2.weight": 10 + 5 * width, "2.bias": 5 * width}
    dense = sum(values.numel() for values in sparse_net().state_dict().values()) * width
    assert size < dense + 1000 - (12 * 9 + 80 - 23) * width + 12


def test_the_golden_file_of_version_3_stays_readable_here_and_elsewhere(tmp_path: Path) -> None:
    expected = sparse_net().state_dict()
    loaded = load(GOLDEN_3, sparse_net()).state_dict()
    values, printed = read_elsewhere(GOLDEN_3, tmp_path / "values.npz")
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor)
        np.testing.assert_array_equal(values[name].astype(np.float32), tensor.numpy())
    assert read_info(GOLDEN_3).version == 3
    assert "made: by the tests of version 3" in printed


def test_damaged_bits_are_refused() -> None:
    sparse = codec("sparse")
    good: Params = {"dtype": "float32", "kernels": 1}
    plain = bytes([1]) + np.ones(4, "<f4").tobytes()
    assert sparse.decode(plain, np.empty(0), (2, 2, 2, 2), good).sum() == 4.0
    for bits in (0, 3, 16):  # none, two, and one beyond the last kernel
        with pytest.raises(ArtifactError, match="do not tell as many kernels"):
            sparse.decode(bytes([bits]) + plain[1:], np.empty(0), (2, 2, 2, 2), good)
    wrong: list[Params] = [{**good, "kernels": 5}, {**good, "kernels": True}, {"dtype": "float32"}]
    for params in wrong:
        with pytest.raises(ArtifactError, match="must be 0 to 4"):
            sparse.num_plain((2, 2, 2, 2), params)
    with pytest.raises(ArtifactError, match="cannot have number format"):
        sparse.num_plain((2, 2), {"dtype": "int8", "kernels": 1})
    with pytest.raises(ArtifactError, match="have no kernels"):
        sparse.num_plain((4,), good)


def test_todays_writer_still_writes_the_values_of_version_3(tmp_path: Path) -> None:
    content = packed_bytes(sparse_net(), plan=Plan(), policy=Policy(), provenance=FACTS, dtype="fp16")
    (tmp_path / "net").write_bytes(content)
    assert read_info(tmp_path / "net").tensors == read_info(GOLDEN_3).tensors
