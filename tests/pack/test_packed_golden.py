from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from packed_nets import (
    READER,
    CodedNet,
    TinyNet,
    coded_net,
    coded_policy,
    coded_weights,
    cut_by_hand,
    numbered,
    read_elsewhere,
    tiny_plan,
    tiny_policy,
)

from tersenet.core.plan import Plan
from tersenet.core.policy import Clusters, Policy
from tersenet.pack import as_stored, load, packed_bytes, read_info, save_packed
from tersenet.pack.container import parse_container
from tersenet.transforms.coded import SharedWeights

GOLDEN = Path(__file__).parent / "golden" / "v1-tiny.tersenet"
GOLDEN_2 = Path(__file__).parent / "golden" / "v2-coded.tersenet"


def test_the_golden_file_of_version_1_stays_readable() -> None:
    loaded = load(GOLDEN, TinyNet())
    expected = cut_by_hand(numbered(TinyNet())).state_dict()
    assert list(loaded.state_dict()) == list(expected)
    for name, values in loaded.state_dict().items():
        assert torch.equal(values, expected[name])
    info = read_info(GOLDEN)
    assert (info.version, info.plan, info.policy) == (1, tiny_plan(), tiny_policy())
    assert info.provenance == {"made": "by the tests of version 1"}
    assert {tensor.codec.partition(" as ")[0] for tensor in info.tensors} == {
        "raw float32",
        "raw float16",
        "raw int64",
        "raw int8",
        "raw bool",
        "same",
    }


def test_the_reader_without_torch_reads_the_golden_file_bit_by_bit(tmp_path: Path) -> None:
    values, printed = read_elsewhere(GOLDEN, tmp_path / "values.npz")
    expected = cut_by_hand(numbered(TinyNet())).state_dict()
    assert list(values) == list(expected)
    for name, array in values.items():
        np.testing.assert_array_equal(array.astype(expected[name].numpy().dtype), expected[name].numpy())
    assert values["head.weight"].dtype == np.float16
    assert "axis 0: 3 stay" in printed
    assert "axis 1: 12 stay" in printed
    assert "made: by the tests of version 1" in printed


def test_the_reader_without_torch_agrees_with_load_on_a_fresh_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Linear(4, 2)).double()
    model[1].half()
    model[2].float()
    torch.nn.init.constant_(model.get_parameter("0.bias"), 1e300)
    path = tmp_path / "net.tersenet"
    save_packed(path, model, plan=Plan(), policy=Policy(), provenance={"name": "größer"}, dtype="fp16")
    values, printed = read_elsewhere(path, tmp_path / "values.npz")
    assert {str(array.dtype) for array in values.values()} == {"float64", "float16", "int64"}
    for name, tensor in load(path, model).state_dict().items():
        np.testing.assert_array_equal(values[name].astype(tensor.numpy().dtype), tensor.numpy())
    assert "größer" in printed


def test_the_reader_without_torch_refuses_a_damaged_file(tmp_path: Path) -> None:
    content = bytearray(GOLDEN.read_bytes())
    content[-1] ^= 1
    (tmp_path / "net").write_bytes(content)
    done = subprocess.run(
        [sys.executable, str(READER), str(tmp_path / "net")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "checksum" in done.stderr


def test_the_reader_needs_numpy_and_the_standard_library_alone() -> None:
    lines = READER.read_text().splitlines()
    imported = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - {*sys.stdlib_module_names} == {"numpy"}
    assert len(lines) < 300


def test_todays_writer_still_writes_the_content_of_version_1(tmp_path: Path) -> None:
    small = cut_by_hand(numbered(TinyNet()))
    facts = {"made": "by the tests of version 1"}
    (tmp_path / "net").write_bytes(packed_bytes(small, plan=tiny_plan(), policy=tiny_policy(), provenance=facts))
    assert read_info(tmp_path / "net").tensors == read_info(GOLDEN).tensors
    assert parse_container((tmp_path / "net").read_bytes()).payload == parse_container(GOLDEN.read_bytes()).payload


def expected_2() -> dict[str, torch.Tensor]:
    """The network of the golden file of version 2, its norm folded by hand into numbers of fp16."""
    expected = dict(coded_net().state_dict())
    weight, bias, mean, var = (
        expected[f"bn.{leaf}"].double().numpy() for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    scale = (weight / np.sqrt(var + 1e-5)).astype(np.float16).astype(np.float64)
    shift = (bias - mean * scale).astype(np.float16)
    expected["bn.weight"], expected["bn.bias"] = torch.tensor(scale).float(), torch.tensor(shift).float()
    expected["bn.running_mean"], expected["bn.running_var"] = torch.zeros(4), torch.full((4,), 1.0 - 1e-5)
    return expected


def test_the_golden_file_of_version_2_stays_readable() -> None:
    loaded = load(GOLDEN_2, CodedNet()).state_dict()
    for name, values in expected_2().items():
        assert torch.equal(loaded[name], values)
    info = read_info(GOLDEN_2)
    assert (info.version, info.plan, info.policy) == (2, Plan(), coded_policy())
    assert info.provenance == {"made": "by the tests of version 2"}
    kinds = {tensor.codec.partition(" ")[0] for tensor in info.tensors}
    assert kinds == {"raw", "clusters", "linear", "constant"}


def test_the_reader_without_torch_reads_the_golden_file_of_version_2_bit_by_bit(tmp_path: Path) -> None:
    values, printed = read_elsewhere(GOLDEN_2, tmp_path / "values.npz")
    expected = expected_2()
    assert list(values) == list(expected)
    for name, array in values.items():
        np.testing.assert_array_equal(array.astype(expected[name].numpy().dtype), expected[name].numpy())
    assert "made: by the tests of version 2" in printed


def test_todays_writer_still_writes_the_golden_file_of_version_2() -> None:
    facts = {"made": "by the tests of version 2"}
    content = packed_bytes(
        coded_net(),
        plan=Plan(),
        policy=coded_policy(),
        provenance=facts,
        dtype="fp16",
        norms="folded",
        coded=coded_weights(),
    )
    fresh, golden = parse_container(content), parse_container(GOLDEN_2.read_bytes())
    # not the compressed index: another LZMA may find something shorter
    assert (fresh.payload, fresh.index) == (golden.payload, golden.index)


def test_the_reader_without_torch_agrees_with_load_on_forty_thousand_coded_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = SharedWeights(
        codebooks=np.linspace(-1, 1, 9, dtype=np.float16)[None],
        indices=np.minimum(rng.geometric(0.3, (64, 64, 3, 3)) - 1, 8).astype(np.uint8),
        axis=0,
        channels_per_codebook=64,
    )
    policy = Policy(storage={"": Clusters(n_clusters=9)})
    model = as_stored(torch.nn.Conv2d(64, 64, 3), policy=policy, coded={"weight": weights})
    path = tmp_path / "net.tersenet"
    save_packed(path, model, plan=Plan(), policy=policy, provenance={}, coded={"weight": weights})
    values, _ = read_elsewhere(path, tmp_path / "values.npz")
    np.testing.assert_array_equal(
        values["weight"], load(path, torch.nn.Conv2d(64, 64, 3)).get_parameter("weight").detach()
    )
