from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_nets import TinyNet, cut_by_hand, numbered, tiny_plan, tiny_policy

from tersenet.errors import ArtifactError
from tersenet.pack import load, packed_bytes, read_info
from tersenet.pack.container import build_container, parse_container


@pytest.fixture(scope="module")
def content() -> bytes:
    small = cut_by_hand(numbered(TinyNet()))
    return packed_bytes(small, plan=tiny_plan(), policy=tiny_policy(), provenance={"seed": "0"})


def same_or_refused(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the file was refused; anything but a refusal or an equal network fails."""
    try:
        loaded = load(path, TinyNet()).state_dict()
        read_info(path)
    except ArtifactError:
        return True
    assert all(torch.equal(loaded[name], values) for name, values in expected.items())
    return False


def test_flipped_and_missing_bytes_are_found_or_do_no_harm(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_bytes(content)
    expected = load(path, TinyNet()).state_dict()
    chance = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(header), *(chance.randrange(header, len(content)) for _ in range(200))]
    refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        refused += same_or_refused(path, expected)
    assert refused > 0.9 * len(places)  # only the header's padding may change
    for length in [0, 1, 7, 8, 9, header - 1, header, *(chance.randrange(len(content)) for _ in range(50))]:
        path.write_bytes(content[:length])
        assert same_or_refused(path, expected)
    path.write_bytes(content + b"\0")
    assert same_or_refused(path, expected)


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


def test_an_index_made_to_mislead_is_refused_or_gives_a_network_of_the_same_form(
    content: bytes, tmp_path: Path
) -> None:
    container = parse_container(content)
    index = json.loads(container.index)
    chance = random.Random(1)
    path = tmp_path / "net"
    refused = 0
    for _ in range(150):
        hostile = json.dumps(_mutate(index, chance)).encode()
        path.write_bytes(build_container(hostile, bytes(container.payload)))
        try:
            loaded = load(path, TinyNet())
        except ArtifactError:
            refused += 1
        else:
            assert loaded.get_parameter("conv.weight").shape == (3, 3, 3, 3)
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
    bomb = zlib.compress(b" " * 50_000_000, 9)
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
    path.write_bytes(content.replace(b'"tersenet_format":"1"', b'"tersenet_format":"2"'))
    with pytest.raises(ArtifactError, match=r"version 2, this version of tersenet reads 1\. Update"):
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
