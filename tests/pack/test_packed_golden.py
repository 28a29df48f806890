from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from packed_nets import TinyNet, cut_by_hand, numbered, tiny_plan, tiny_policy

from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.pack import load, packed_bytes, read_info, save_packed

GOLDEN = Path(__file__).parent / "golden" / "v1-tiny.tersenet"
READER = Path(__file__).parents[2] / "examples" / "read_packed.py"


def read_elsewhere(path: Path, output: Path) -> tuple[dict[str, NDArray[Any]], str]:
    """The values as the reader without torch finds them, and what it prints."""
    command = [sys.executable, str(READER), str(path), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    with np.load(output, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}, done.stdout


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


def test_todays_writer_still_writes_the_golden_content(tmp_path: Path) -> None:
    small = cut_by_hand(numbered(TinyNet()))
    facts = {"made": "by the tests of version 1"}
    (tmp_path / "net").write_bytes(packed_bytes(small, plan=tiny_plan(), policy=tiny_policy(), provenance=facts))
    fresh, golden = read_info(tmp_path / "net"), read_info(GOLDEN)
    assert fresh.tensors == golden.tensors
    assert abs(fresh.size_bytes - golden.size_bytes) < 16  # another zlib may pack the index a little differently
