from __future__ import annotations

import hashlib
import importlib.util
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    tiny_plan,
    tiny_policy,
)
from torch import nn

from tersenet.core.plan import Plan
from tersenet.core.policy import Clusters, Policy
from tersenet.errors import ArtifactError
from tersenet.pack import container as outer
from tersenet.pack import load, packed_bytes, read_info, save_packed
from tersenet.pack.container import build_container, parse_container
from tersenet.transforms.coded import SharedWeights


def values_elsewhere(path: Path, **options: int) -> dict[str, Any]:
    """What the reader without torch makes of the file."""
    spec = importlib.util.spec_from_file_location("read_packed", READER)
    assert spec is not None
    assert spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    found: dict[str, Any] = reader.read_tensors(*reader.read_container(path.read_bytes()), **options)
    return found


@pytest.fixture(scope="module")
def content() -> bytes:
    small = cut_by_hand(numbered(TinyNet()))
    return packed_bytes(small, plan=tiny_plan(), policy=tiny_policy(), provenance={"seed": "0"})


@pytest.fixture(scope="module")
def coded_content() -> bytes:
    return packed_bytes(
        coded_net(), plan=Plan(), policy=coded_policy(), provenance={}, norms="folded", coded=coded_weights()
    )


def same_or_refused(path: Path, model: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the file was refused; anything but a refusal or an equal network fails."""
    try:
        loaded = load(path, model).state_dict()
        read_info(path)
    except ArtifactError:
        return True
    assert all(torch.equal(loaded[name], values) for name, values in expected.items())
    return False


@pytest.mark.parametrize(("fixture", "model"), [("content", TinyNet()), ("coded_content", CodedNet())])
def test_flipped_and_missing_bytes_are_found_or_do_no_harm(
    fixture: str, model: nn.Module, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    content: bytes = request.getfixturevalue(fixture)
    path = tmp_path / "net"
    path.write_bytes(content)
    expected = load(path, model).state_dict()
    chance = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), *(chance.randrange(header, len(content)) for _ in range(100))]
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused += same_or_refused(path, model, expected)
    assert refused > 0.9 * len(places)  # only the header's padding may change
    for length in [0, 1, 7, 8, 9, header - 1, header, *(chance.randrange(len(content)) for _ in range(50))]:
        path.write_bytes(content[:length])
        assert same_or_refused(path, model, expected)
    path.write_bytes(content + b"\0")
    assert same_or_refused(path, model, expected)


@pytest.mark.slow
def test_a_payload_that_was_changed_together_with_its_checksum_gives_a_network_of_the_same_form(
    coded_content: bytes, tmp_path: Path
) -> None:
    container = parse_container(coded_content)
    chance = random.Random(2)
    path = tmp_path / "net"
    refused = 0
    for _ in range(150):
        payload = bytearray(container.payload)
        for _ in range(chance.randrange(1, 4)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        cut = chance.choice([0, 0, 1, 4, 8, 40])
        path.write_bytes(build_container(container.index, bytes(payload[: len(payload) - cut])))
        try:
            loaded = load(path, CodedNet())
        except ArtifactError:
            refused += 1
        else:
            assert len(np.unique(loaded.get_parameter("first.weight").detach().numpy())) <= 5
    assert 75 < refused < 150  # a change of a bias is no lie that could be found


def _mutate(value: Any, chance: random.Random) -> Any:
    """A copy of a JSON value with one random place changed to something unlikely."""
    strange: list[Any] = [None, -1, 0, 1, 2**70, 1.5, "", "x", [], {}, [[]], True, float("nan"), 10**4]
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        return {**value, key: _mutate(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], _mutate(value[place], chance), *value[place + 1 :]]
    return chance.choice(strange)


@pytest.mark.parametrize(("fixture", "model"), [("content", TinyNet()), ("coded_content", CodedNet())])
def test_an_index_made_to_mislead_is_refused_or_gives_a_network_of_the_same_form(
    fixture: str, model: nn.Module, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    container = parse_container(request.getfixturevalue(fixture))
    path = tmp_path / "net"
    path.write_bytes(request.getfixturevalue(fixture))
    shapes = {name: values.shape for name, values in load(path, model).state_dict().items()}
    index = json.loads(container.index)
    chance = random.Random(1)
    refused = 0
    for _ in range(150):
        hostile = json.dumps(_mutate(index, chance)).encode()
        path.write_bytes(build_container(hostile, bytes(container.payload)))
        try:
            read_info(path)
            loaded = load(path, model)
        except ArtifactError:
            refused += 1
        else:
            assert {name: values.shape for name, values in loaded.state_dict().items()} == shapes
    assert refused > 75


def changed(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda index: {**index, key: change(index[key])}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (changed("codecs", lambda old: [{"codec": "arithmetic"}, *old[1:]]), "No codec is called 'arithmetic'"),
        (changed("codecs", lambda old: [{"codec": "raw", "dtype": "object"}, *old[1:]]), "no number format 'object'"),
        (changed("shapes", lambda old: [[1 << 39, 1 << 39], *old[1:]]), "claims"),
        (changed("shapes", lambda old: [[-1], *old[1:]]), "makes no sense at 'shapes.0.0'"),
        (changed("shapes", lambda old: [[1 << 80], *old[1:]]), "makes no sense"),
        (changed("shapes", lambda old: [*old[:-1], [1]]), "belong to no tensor"),
        (changed("shapes", lambda old: old[:-1]), "different lengths"),
        (changed("kinds", lambda old: [10**9, *old[1:]]), "not there"),
        (changed("uses", lambda old: [10**9, *old[1:]]), "not there"),
        (changed("sets", lambda old: [[10**11, "//8="], *old[1:]]), "longer than"),
        (changed("leaves", lambda old: [["x"] * 10**5 for _ in old]), "one name for each"),
        (changed("plan", lambda old: {**old, "keeps": old["keeps"] * 6 * 10**5}), "too often"),
        (changed("plan", lambda old: {**old, "cuts": old["cuts"][:-1]}), "cut off"),
        (changed("plan", lambda old: {**old, "cuts": [-5, 0, 0]}), "not there"),
        (changed("policy", lambda old: {**old, "version": 7}), "makes no sense at 'version'"),
        (changed("dtype", lambda old: "fp8"), "makes no sense at 'dtype'"),
    ],
)
def test_each_lie_of_an_index_has_its_own_answer(
    edit: Callable[[dict[str, Any]], dict[str, Any]], message: str, content: bytes, tmp_path: Path
) -> None:
    container = parse_container(content)
    hostile = json.dumps(edit(json.loads(container.index))).encode()
    (tmp_path / "net").write_bytes(build_container(hostile, bytes(container.payload)))
    with pytest.raises(ArtifactError, match=message):
        read_info(tmp_path / "net")


def codec_of(name: str, **changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """An edit of the parameters of every codec of this name."""
    return changed("codecs", lambda old: [spec | changes if spec["codec"] == name else spec for spec in old])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (codec_of("clusters", entries=0), "entries must be 1 to 65536, got 0"),
        (codec_of("clusters", entries=65537), "entries must be 1 to 65536"),
        (codec_of("clusters", entries=2.0), "entries must be"),
        (codec_of("clusters", entries=65536), "claims"),
        (codec_of("clusters", channels=-1), "channels must be 0 to"),
        (codec_of("clusters", axis=2), "axis must be 0 to 1"),
        (codec_of("clusters", dtype="float64"), "cannot have number format 'float64'"),
        (codec_of("linear", bits=9), "bits must be 1 to 8"),
        (codec_of("linear", bits="4"), "bits must be 1 to 8"),
        (codec_of("linear", dtype="int8"), "cannot have number format 'int8'"),
        (codec_of("linear", bits=8), "does not end with its last symbol"),
        (codec_of("constant", value="0"), "cannot be 0"),
        (codec_of("constant", value=1e39), r"constant of number format float32 cannot be 1e\+39"),
        (codec_of("constant", value=10**400), "cannot be 1000"),
        (codec_of("constant", dtype="int8", value=300), "number format int8 cannot be 300"),
        (changed("shapes", lambda old: [[1 << 39, 3, 3, 3], *old[1:]]), "max_weights is 268435456"),
        (changed("shapes", lambda old: [[0, 3, 3, 3], *old[1:]]), "no output channels on axis 0"),
        (changed("shapes", lambda old: [[], *old[1:]]), "no output channels on axis 0"),
        (changed("shapes", lambda old: [[4, 3, 3, 2], *old[1:]]), "does not end with its last symbol"),
    ],
)
def test_each_lie_about_coded_weights_has_its_own_answer(
    edit: Callable[[dict[str, Any]], dict[str, Any]], message: str, coded_content: bytes, tmp_path: Path
) -> None:
    container = parse_container(coded_content)
    hostile = json.dumps(edit(json.loads(container.index))).encode()
    (tmp_path / "net").write_bytes(build_container(hostile, bytes(container.payload)))
    with pytest.raises(ArtifactError, match=message):
        read_info(tmp_path / "net")
    with pytest.raises(ArtifactError):
        load(tmp_path / "net", CodedNet())
    with pytest.raises((ValueError, IndexError, TypeError, OverflowError)):  # those that it turns into a message
        values_elsewhere(tmp_path / "net")


def test_a_constant_that_its_number_format_cannot_hold_is_refused(coded_content: bytes, tmp_path: Path) -> None:
    container = parse_container(coded_content)
    edit = codec_of("constant", dtype="int8", value=0.5)
    hostile = json.dumps(edit(json.loads(container.index))).encode()
    (tmp_path / "net").write_bytes(build_container(hostile, bytes(container.payload)))
    with pytest.raises(ArtifactError, match=r"number format int8 cannot be 0\.5"):
        load(tmp_path / "net", CodedNet())


@pytest.mark.parametrize(
    ("codebook", "message"),
    [([0.0, float("nan"), 0.0, 0.25, 1.0], "not a finite number"), ([0.0, -1.0, 0.0, 0.25, 1.0], "do not ascend")],
)
def test_a_codebook_that_makes_no_sense_is_refused(
    codebook: list[float], message: str, coded_content: bytes, tmp_path: Path
) -> None:
    container = parse_container(coded_content)
    payload = np.array(codebook, "<f2").tobytes() + bytes(container.payload[10:])
    (tmp_path / "net").write_bytes(build_container(container.index, payload))
    with pytest.raises(ArtifactError, match=message):
        load(tmp_path / "net", CodedNet())


def test_a_small_file_of_very_many_weights_needs_leave_to_be_read(tmp_path: Path) -> None:
    weights = SharedWeights(
        codebooks=np.array([[0.0, 1.0]], np.float16),
        indices=np.zeros((1000, 2000), np.uint8),
        axis=0,
        channels_per_codebook=1000,
    )
    model = nn.Linear(2000, 1000, bias=False)
    nn.init.zeros_(model.weight)
    policy = Policy(storage={"": Clusters(n_clusters=2)})
    path = tmp_path / "net"
    size = save_packed(path, model, plan=Plan(), policy=policy, provenance={}, coded={"weight": weights})
    assert size < 1000
    with pytest.raises(ArtifactError, match="claims 2000000 coded weights, max_weights is 1999999"):
        read_info(path, max_weights=1_999_999)
    assert read_info(path, max_weights=2_000_000).tensors[0].shape == (1000, 2000)
    with pytest.raises(ValueError, match="2000000 coded weights"):
        values_elsewhere(path, max_weights=1_999_999)
    with pytest.raises(ArtifactError, match=r"has shape \(10, 10\) in the model"):
        load(path, nn.Linear(10, 10, bias=False))


def test_deeply_nested_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(build_container(b"[" * 10**6, b""))
    with pytest.raises(ArtifactError, match="makes no sense"):
        read_info(tmp_path / "net")
    header = b"[" * 4000
    (tmp_path / "net").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ArtifactError, match="header is damaged"):
        read_info(tmp_path / "net")


@pytest.mark.parametrize("declared", ["100", "50000000"])
def test_a_decompression_bomb_is_not_unpacked(declared: str, content: bytes, tmp_path: Path) -> None:
    bomb = lzma.compress(b" " * 50_000_000, format=lzma.FORMAT_RAW, filters=[outer._LZMA[0] | {"preset": 0}])
    honest = build_container(b"{}", b"")
    start = 8 + int.from_bytes(honest[:8], "little")
    header = json.loads(honest[8:start])
    header["__metadata__"].update(index_bytes=declared, sha256=hashlib.sha256(bomb).hexdigest())
    header["index"].update(shape=[len(bomb)], data_offsets=[0, len(bomb)])
    text = json.dumps(header).encode()
    (tmp_path / "net").write_bytes(len(text).to_bytes(8, "little") + text + bomb)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="index"):
        read_info(tmp_path / "net")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_a_newer_version_and_a_foreign_file_are_told_apart(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(content.replace(b'"tersenet_format":"3"', b'"tersenet_format":"4"'))
    with pytest.raises(ArtifactError, match=r"version 4, this version of tersenet reads 1 to 3\. Update"):
        read_info(path)
    path.write_bytes(content.replace(b'"tersenet_format"', b'"somebody_else_'))
    with pytest.raises(ArtifactError, match="header is damaged"):
        read_info(path)
    path.write_bytes(content.replace(b'"tersenet_format"', b'"somebody_else__"'))
    with pytest.raises(ArtifactError, match="not a packed file of tersenet"):
        read_info(path)
    path.write_bytes(b"PK\x03\x04 a zip archive, say, of a pickled model")
    with pytest.raises(ArtifactError, match="not a packed file"):
        read_info(path)
