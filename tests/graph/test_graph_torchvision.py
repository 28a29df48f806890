"""Classifiers of torchvision, one of each family: traced, cut at random, exact. All 80 are in docs/networks.md.

`make torchvision`, or `pytest -m torchvision`, runs what needs that library, and downloads it where it is missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAMILIES = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_16",
)  # fmt: skip
TRANSFORMERS = ("swin_t", "vit_b_16")


@pytest.fixture(scope="module")
def coupling() -> ModuleType:
    """The benchmark that makes docs/networks.md."""
    spec = importlib.util.spec_from_file_location("coupling", BENCHMARKS / "coupling.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coupling"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def zoo(coupling: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The benchmark, with torchvision at hand: the installed one, else one that goes with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None:
            folder = tmp_path_factory.mktemp("torchvision")
            problem = download_torchvision(folder)
            if problem:
                pytest.skip(f"torchvision is not installed and cannot be downloaded: {problem}")
            patch.syspath_prepend(folder)
        try:
            coupling.torchvision()
        except Exception as error:
            pytest.skip(f"torchvision cannot be imported here: {type(error).__name__}: {error}")
        yield coupling


def download_torchvision(folder: Path, *options: str) -> str:
    """Put the release that belongs to this torch into a folder, and nothing it depends on; returns what went wrong."""
    minor = int(torch.__version__.split(".")[1])
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ]
    command += ["--only-binary=:all:", "--timeout=30", "--retries=1", f"--target={folder}", *options]
    found = subprocess.run([*command, f"torchvision==0.{minor + 15}.*"], capture_output=True, text=True, check=False)
    return (found.stderr.strip().splitlines() or ["pip failed"])[-1] if found.returncode else ""


@pytest.mark.torchvision
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_classifiers_are_cut_exactly_and_not_vacuously(name: str, zoo: ModuleType) -> None:
    build = dict(zoo.suites()["torchvision"]())[name]
    row = zoo.row_of(*build())
    assert row["exact"], row["reason"]
    assert row["prunable_macs_ratio"] >= (0.2 if name in TRANSFORMERS else 0.5)


@pytest.mark.slow
def test_without_a_network_the_download_says_what_went_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # a machine's own constraints would be what pip complains of
    for name in ("PIP_CONSTRAINT", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    assert "No matching distribution found for torchvision" in download_torchvision(tmp_path, "--no-index")


def test_the_page_of_the_documentation_is_made_of_the_results(coupling: ModuleType) -> None:
    stored = json.loads((BENCHMARKS / "results" / "coupling.json").read_text())
    assert coupling.PAGE.read_text() == coupling.page(stored["rows"], command=stored["command"])
    assert all(set(coupling.COLUMNS) - set(row) <= {"reason"} for row in stored["rows"] if row["exact"])


@pytest.mark.slow
def test_a_row_says_what_is_exact_and_how_much_may_be_cut(coupling: ModuleType) -> None:
    build = dict(coupling.suites()["hand-written"]())["temporal_cnn"]
    row = coupling.row_of(*build())
    assert (row["exact"], row["reason"]) == (True, None)
    # everything but the 5 outputs' biases lies in channels that may be cut
    assert row["prunable_macs_ratio"] == 1.0
    assert row["prunable_params_ratio"] == round(1 - 5 / row["num_params"], 4)
