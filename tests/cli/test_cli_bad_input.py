"""Bad input, each for real: one line on stderr that names what was given, exit code 2, nothing on stdout."""

from __future__ import annotations

import gzip
import sqlite3
import struct
import tarfile
from pathlib import Path

import pytest
import torch
from cli_runs import small_run
from typer.testing import CliRunner

from tersenet import pack
from tersenet.cli.main import app
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.models import load_model, save_weights
from tersenet.report import to_json

USER = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).relu().mean((2, 3)))


class Choosy(Net):
    def forward(self, x):
        return super().forward(x * 2 if x.sum() > 0 else x)


class Diverged(Net):
    def __init__(self):
        super().__init__()
        self.first.weight.data[0] = float("nan")


class NothingToCut(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(36, 4))


def number():
    return 3


def batches(highest=3):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 1, 6, 6, generator=generator)
    labels = torch.arange(32) % 4
    labels[5] = highest
    return [(images[:16], labels[:16]), (images[16:], labels[16:])]


def data():
    return batches(), batches(), batches()


def wrong_labels():
    return batches(17), batches(17), batches(17)


def once():
    return iter(batches()), iter(batches()), iter(batches())


def empty():
    return [], [], []


def data_raises():
    raise RuntimeError("no such table")


class Stops:
    def __iter__(self):
        yield batches()[0]
        raise OSError("the disk is gone")


def stops():
    return Stops(), batches(), batches()


def raises(model, batches):
    raise RuntimeError("no such key")


def not_a_number(model, batches):
    return float("nan")


def loss_raises(outputs, targets):
    raise RuntimeError("no such key")


def loss_per_sample(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")
"""

HALF = ["--max-macs-ratio", "0.5"]
SMALL = ["--data", "user.py:data", "--trials", "1", "--finetune-epochs", "1", "--controls", "none"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TERSENET_DATA", raising=False)
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "nothing").mkdir()
    return tmp_path


def refused(*arguments: str) -> str:
    """The one line with which a command is refused; tables on stdout are allowed before it."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("search", "fine-tune", "train"))]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("tersenet: ")
    assert "--debug" not in lines[0]  # it would mean that nobody thought of this
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.py:Net"], ["model", "none.py"]),
        (["user.py"], ["user.py:NAME"]),
        (["user.py:Nett"], ["Did you mean 'Net'"]),
        (["user.py:number"], ["int", "nn.Module"]),
        (["resnet200"], ["Did you mean 'resnet20'"]),
        (["digits_cnn"], ["untrained", "--train-epochs"]),
        (["user.py:Net", "--data", "digit"], ["Did you mean 'digits'"]),
        (["user.py:Net", "--data", "cifar10:/none"], ["/none"]),
        (["user.py:Net", "--data", "cifar10:nothing"], ["nothing", "data_batch_1"]),
        (["user.py:Net", "--data", "mnist:/none"], ["/none"]),
        (["user.py:Net", "--data", "mnist:nothing"], ["train-images-idx3-ubyte"]),
        (["user.py:Net", "--data", "folder:/none"], ["/none"]),
        (["user.py:Net", "--data", "folder:nothing"], ["nothing", "no images"]),
        (["user.py:Net", "--data", "user.py:once"], ["only once", "DataLoader"]),
        (["user.py:Net", "--data", "user.py:empty"], ["train is empty"]),
        (["user.py:Net", "--data", "user.py:data_raises"], ["user.py:data_raises", "no such table"]),
        (["user.py:Net", "--data", "user.py:stops"], ["train, batch 1", "the disk is gone"]),
        (["user.py:Net", "--weights", "none.pt"], ["none.pt", "does not exist"]),
        (["user.py:Net", "--weights", "nothing"], ["nothing", "folder"]),
        (["user.py:Net", "--weights", "user.py"], ["user.py", "state_dict"]),
        (["user.py:Net", "--metric", "none.py:metric"], ["metric", "none.py"]),
        (["user.py:Net", "--metric", "user.py:raise"], ["Did you mean 'raises'"]),
        (["user.py:Net", "--loss", "user.py"], ["loss", "user.py:NAME"]),
        (["user.py:Net", "--recipe", "he2081"], ["Did you mean 'he2018'"]),
        (["user.py:Net", "--controls", "unifrom"], ["Did you mean 'uniform'"]),
        (["user.py:Net", "--set", "criterion=geometric_mean"], ["Did you mean 'geometric_median'"]),
        (["user.py:Net", "--set", "lower_bound=7"], ["lower_bound=7", "less than or equal to 1"]),
        (["user.py:Net", "--max-macs-ratio", "nan"], ["max_macs_ratio=nan"]),
        (["user.py:Net", "--max-params-ratio", "0"], ["max_params_ratio=0"]),
        (["user.py:Net", "--max-size-bytes", "-5"], ["max_size_bytes=-5"]),
        (["user.py:Net", "--max-latency-ms", "3"], ["max_latency_ms", "max_macs_ratio"]),
        (["user.py:Net", "--max-top1-drop", "1", "--minimize", "speed"], ["minimize='speed'", "macs"]),
        (["user.py:Net", "--device", "cuda:99"], ["cuda:99", "--device cpu"]),
        (["user.py:Diverged", "--data", "user.py:data"], ["first.weight", "NaN"]),
        (["user.py:Net", "--out", "user.py"], ["out", "user.py is a file"]),
        (["user.py:Net", "--out", "user.py/below"], ["user.py/below", "is a file"]),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(arguments: list[str], words: list[str]) -> None:
    if arguments == ["user.py:Net", "--device", "cuda:99"] and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    said = refused("compress", *HALF, *arguments)
    assert all(word in said for word in words), said


def test_torchs_advice_to_run_the_code_of_a_pickle_is_not_passed_on(folder: Path) -> None:
    assert "weights_only" not in refused("compress", *HALF, "user.py:Net", "--weights", "user.py")


def test_weights_of_another_network_cut_short_or_not_numbers_are_refused(folder: Path) -> None:
    save_weights(load_model("resnet20"), folder / "r20.safetensors", metadata={})
    assert "does not fit" in refused("compress", *HALF, "resnet32", "--weights", "r20.safetensors")
    whole = (folder / "r20.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:20_000])
    assert "cut.safetensors" in refused("compress", *HALF, "resnet20", "--weights", "cut.safetensors")
    (folder / "cut.pt").write_bytes(b"PK\x03\x04" + whole[:200])
    assert "cut.pt" in refused("compress", *HALF, "resnet20", "--weights", "cut.pt")
    torch.save(load_model("user.py:Diverged").state_dict(), folder / "nan.pt")
    assert "NaN" in refused("compress", *HALF, "user.py:Net", "--weights", "nan.pt")


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w"])
def test_a_truncated_archive_of_cifar10_is_refused(folder: Path, mode: str) -> None:
    with tarfile.open(folder / "whole.tar", mode) as archive:  # type: ignore[call-overload]
        (folder / "data_batch_1").write_bytes(torch.randn(5000).numpy().tobytes())
        archive.add(folder / "data_batch_1", "cifar-10-batches-py/data_batch_1")
    whole = (folder / "whole.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    said = refused("compress", *HALF, "user.py:Net", "--data", "cifar10:cut.tar")
    assert "cut.tar" in said
    assert "damaged" in said


def test_a_truncated_file_of_mnist_is_refused(folder: Path) -> None:
    images = gzip.compress(struct.pack(">IIII", 2051, 60_000, 28, 28) + torch.randn(3000).numpy().tobytes())
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / "nothing" / f"{name}-ubyte.gz").write_bytes(images[: len(images) // 2])
    said = refused("compress", *HALF, "user.py:Net", "--data", "mnist:nothing")
    assert "train-images-idx3-ubyte.gz is damaged" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no policy file"),
        ("{", "not a policy"),
        ('{"channels": {"first": {"pruning_ratio": 2}}}', "channels.first"),
    ],
)
def test_a_policy_that_is_none_is_refused(folder: Path, text: str | None, said: str) -> None:
    if text is not None:
        (folder / "policy.json").write_text(text)
    assert said in refused("apply", "policy.json", "user.py:Net", "--data", "user.py:data")


def test_artifacts_that_are_missing_cut_short_or_of_another_network_are_refused(folder: Path) -> None:
    evaluate = ["user.py:Net", "--data", "user.py:data"]
    assert "none" in refused("evaluate", "none", *evaluate)
    assert "nothing" in refused("evaluate", "nothing", *evaluate)
    path = folder / "nothing" / "model.tersenet"
    net = load_model("user.py:Net")
    pack.save_packed(path, net, plan=Plan(cuts=(), kept_channels={}), policy=Policy(), provenance={})
    whole = path.read_bytes()
    assert "another network" in refused("evaluate", "nothing", "resnet20", "--data", "user.py:data")
    for num_bytes in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:num_bytes])
        assert "model.tersenet" in refused("evaluate", "nothing", *evaluate)
    path.write_bytes(whole)
    (folder / "nothing" / "model.onnx").write_bytes(b"\x08\x0a" + b"\xff" * 50)
    assert "model.onnx" in refused("evaluate", "nothing", *evaluate)


def test_a_result_cut_short_is_refused(folder: Path) -> None:
    text = to_json(small_run())
    (folder / "nothing" / "result.json").write_text(text[: len(text) // 2])
    assert "result.json" in refused("report", "nothing")
    assert "none" in refused("report", "none")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["user.py:Choosy"], ["cannot be traced", "user.py", "values of a tensor"]),
        (["user.py:NothingToCut"], ["No channel group", "outputs"]),
        (["user.py:Net", "--max-macs-ratio", "0.001"], ["max_macs_ratio=0.001", "Raise the bound"]),
        (["user.py:Net", "--max-top1-drop", "1"], ["max_top1_drop=1.0", "reference_top1"]),
        (["user.py:Net", "--data", "user.py:wrong_labels"], ["17", "abels"]),
        (["user.py:Net", "--metric", "user.py:raises"], ["raises", "RuntimeError: no such key"]),
        (["user.py:Net", "--metric", "user.py:not_a_number"], ["not_a_number", "nan"]),
        (["user.py:Net", "--loss", "user.py:loss_raises"], ["loss_raises", "RuntimeError: no such key"]),
        (["user.py:Net", "--loss", "user.py:loss_per_sample"], ["loss_per_sample", "(16,)"]),
    ],
)
def test_what_shows_only_when_the_network_runs_is_one_line_too(arguments: list[str], words: list[str]) -> None:
    said = refused("compress", *HALF, *SMALL, *arguments)
    assert all(word in said for word in words), said


@pytest.mark.slow
def test_nothing_is_trained_for_a_target_that_cannot_be_reached(folder: Path) -> None:
    said = refused(
        "compress", "user.py:Net", *SMALL, "--max-macs-ratio", "0.001", "--train-epochs", "3", "--out", "run"
    )
    assert "cannot be reached" in said
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_the_folder_of_another_run_or_of_another_process_is_refused(folder: Path) -> None:
    with sqlite3.connect(folder / "nothing" / "study.sqlite", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "in use" in refused("compress", "user.py:Net", *SMALL, *HALF, "--out", "nothing")
        other.execute("COMMIT")
    other.close()
    assert CliRunner().invoke(app, ["compress", "user.py:Net", *SMALL, *HALF, "--out", "nothing"]).exit_code == 0
    said = refused("compress", "user.py:Net", *SMALL, *HALF, "--out", "nothing", "--seed", "1")
    assert "another run" in said
    assert "seed: 0 there, 1 now" in said
