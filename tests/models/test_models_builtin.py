"""The built-in networks: parameter counts, keys, shapes, and the published accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet import models
from tersenet.data import cifar10, digits
from tersenet.errors import ModelError, UnknownNameError

# Published: He et al. 2016 (ResNets, counted by others), torchvision's documentation (vgg16, mobilenet_v2), and
# Liu et al. 2017, table 1 (20.04M for VGG-19). By hand: the last three, from their layers.
NUM_PARAMS = {
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "vgg16": 138_357_544,
    "mobilenet_v2": 3_504_872,
    "vgg19_bn_cifar": 20_035_018,
    "vgg16_bn_cifar": 20_035_018 - (256 * 256 * 9 + 2 * 256) - 2 * (512 * 512 * 9 + 2 * 512),
    "vgg_small_mnist": 9 * (32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 2 * 2 * (32 + 64 + 128)
    + (128 * 9 + 1) * 128 + 129 * 10,
    "digits_cnn": 78_610,
}  # fmt: skip
INPUTS = {
    "vgg_small_mnist": (2, 1, 28, 28),
    "digits_cnn": (2, 1, 8, 8),
    "mobilenet_v2": (2, 3, 224, 224),
    "vgg16": (2, 3, 224, 224),
}


def on_meta(name: str, num_classes: int | None = None) -> nn.Module:
    """Without memory or time for the values."""
    with torch.device("meta"):
        return models.build(name, num_classes=num_classes)


def test_every_network_of_the_list_is_there() -> None:
    assert set(models.names()) == set(NUM_PARAMS)


@pytest.mark.parametrize("name", sorted(NUM_PARAMS))
def test_the_number_of_parameters_is_the_known_one(name: str) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == NUM_PARAMS[name]


@pytest.mark.parametrize("name", sorted(NUM_PARAMS))
@pytest.mark.parametrize("num_classes", [None, 7])
def test_the_network_gives_one_logit_per_class(name: str, num_classes: int | None) -> None:
    usual = 1000 if name in ("vgg16", "mobilenet_v2") else 10
    model = on_meta(name, num_classes).eval()
    logits = model(torch.zeros(INPUTS.get(name, (2, 3, 32, 32)), device="meta"))
    assert logits.shape == (2, num_classes or usual)
    assert models.input_shape(name) == INPUTS.get(name, (2, 3, 32, 32))[1:]


def test_keys_of_the_imagenet_networks_are_those_of_torchvision() -> None:
    mobilenet, vgg = set(on_meta("mobilenet_v2").state_dict()), set(on_meta("vgg16").state_dict())
    assert {"features.0.0.weight", "features.1.conv.1.weight", "features.2.conv.0.0.weight", "features.17.conv.3.bias",
            "features.18.1.running_var", "classifier.1.weight"} <= mobilenet  # fmt: skip
    assert len(mobilenet) == 314
    convolutions = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    parts = [f"features.{number}" for number in convolutions] + [f"classifier.{number}" for number in (0, 3, 6)]
    assert vgg == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_the_shortcut_pads_the_channels_on_both_sides() -> None:
    model = models.build("resnet20").eval()
    block = model.get_submodule("layer2.0")
    for name in ("bn2.weight", "bn2.bias"):
        nn.init.zeros_(block.get_parameter(name))  # leaves the shortcut alone
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert float(out[:, :8].abs().sum() + out[:, 24:].abs().sum()) == 0.0


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"No model is called 'resnet-20'\. Did you mean 'resnet20'"):
        models.build("resnet-20")


@pytest.mark.parametrize("num_classes", [0, -3])
def test_a_network_without_outputs_is_refused(num_classes: int) -> None:
    with pytest.raises(ModelError, match=f"num_classes={num_classes}"):
        models.build("resnet20", num_classes=num_classes)


def data_root() -> Path:
    root = os.environ.get("TERSENET_DATA")
    if root is None:
        pytest.skip("TERSENET_DATA does not name the folder of the data sets")
    return Path(root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "resnet32", "resnet56"])
def test_published_weights_fit_key_by_key(name: str) -> None:
    model = models.build(name)
    info = models.load_weights(model, data_root() / "weights" / f"{name}_cifar10.safetensors")
    assert info.saw_search is None
    assert info.metadata["parameters"] == str(NUM_PARAMS[name])


def test_published_mobilenet_weights_fit_key_by_key() -> None:
    info = models.load_weights(models.build("mobilenet_v2"), data_root() / "weights/mobilenet_v2_imagenet.safetensors")
    assert info.sha256 == "028aecb52ca9dd19b03ba7bb7c3e5e51bce2f4b02d55dba1d24d182281f25ca0"


def num_right(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> int:
    model.eval()
    with torch.inference_mode():
        return sum(int((model(x).argmax(dim=1) == labels).sum()) for x, labels in batches)


@pytest.mark.slow
def test_resnet20_reaches_its_published_accuracy() -> None:
    root = data_root()
    model = models.build("resnet20")
    models.load_weights(model, root / "weights" / "resnet20_cifar10.safetensors")
    batches = list(cifar10(root / "cifar10").test.source.batches(250))
    assert num_right(model, batches) == 9173  # type: ignore[arg-type]


@pytest.mark.slow
def test_digits_cnn_learns_the_digits_in_seconds() -> None:
    data = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build("digits_cnn")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=12 * 16)
    for epoch in range(12):
        for x, labels in data.train.source.batches(64, shuffle_seed=epoch, augment=epoch < 9):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(x), labels))
            optimizer.step()
            schedule.step()
    batches = list(data.test.source.batches(500))
    assert num_right(model, batches) >= 0.97 * 500  # type: ignore[arg-type]
