"""Classifiers of torchvision, one of each family: traced, cut at random, exact. All 80 are in docs/networks.md."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAMILIES)
def test_classifiers_are_cut_exactly_and_not_vacuously(name: str, coupling: ModuleType) -> None:
    try:
        coupling.torchvision()
    except Exception as error:
        pytest.skip(f"torchvision cannot be imported here: {type(error).__name__}: {error}")
    build = dict(coupling.suites()["torchvision"]())[name]
    row = coupling.row_of(*build())
    assert row["exact"], row["reason"]
    assert row["prunable_macs_ratio"] >= (0.2 if name in TRANSFORMERS else 0.5)


def test_the_page_of_the_documentation_is_made_of_the_results(coupling: ModuleType) -> None:
    stored = json.loads((BENCHMARKS / "results" / "coupling.json").read_text())
    assert coupling.PAGE.read_text() == coupling.page(stored["rows"], command=stored["command"])
    assert all(set(coupling.COLUMNS) - set(row) <= {"reason"} for row in stored["rows"] if row["exact"])


def test_a_row_says_what_is_exact_and_how_much_may_be_cut(coupling: ModuleType) -> None:
    build = dict(coupling.suites()["hand-written"]())["temporal_cnn"]
    row = coupling.row_of(*build())
    assert (row["exact"], row["reason"]) == (True, None)
    # everything but the 5 outputs' biases lies in channels that may be cut
    assert row["prunable_macs_ratio"] == 1.0
    assert row["prunable_params_ratio"] == round(1 - 5 / row["num_params"], 4)
