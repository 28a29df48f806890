"""VGG: for ImageNet with torchvision's keys, for CIFAR with batch norm and one linear layer, and small for MNIST.

The CIFAR networks are those of the pruning literature: 3x3 convolutions without bias, batch norm, a final average
pool of 2x2 and ``Linear(512, classes)``; VGG-19 has 20.04 million parameters.

Source: Simonyan and Zisserman 2015, arXiv:1409.1556, table 1, columns D and E.
Differs: CIFAR and MNIST variants as above.
"""

from __future__ import annotations

from torch import Tensor, nn

from tersenet.models.registry import register

Widths = tuple[int | None, ...]
"""Output channels of the convolutions in order; None is a 2x2 max pool."""

VGG16: Widths = (64, 64, None, 128, 128, None, *(256,) * 3, None, *(512,) * 3, None, *(512,) * 3, None)
VGG19: Widths = (64, 64, None, 128, 128, None, *(256,) * 4, None, *(512,) * 4, None, *(512,) * 4, None)
MNIST: Widths = (32, 32, None, 64, 64, None, 128, 128, None)


class VGG(nn.Module):
    """``features``, a pool to a fixed size, ``classifier``."""

    def __init__(self, features: nn.Sequential, pool: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.avgpool = pool
        self.classifier = classifier
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, colours, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits


def _features(widths: Widths, *, in_channels: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        if width is None:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(in_channels, width, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if batch_norm else [nn.ReLU(inplace=True)]
        in_channels = width
    return nn.Sequential(*layers)


def _for_cifar(widths: Widths, num_classes: int) -> nn.Module:
    features = _features(widths[:-1], in_channels=3, batch_norm=True)  # the last pool is the average pool
    return VGG(features, nn.AvgPool2d(2), nn.Linear(512, num_classes))


@register("vgg16_bn_cifar", num_classes=10, input_shape=(3, 32, 32))
def vgg16_bn_cifar(num_classes: int) -> nn.Module:
    """14,724,042 parameters at 10 classes; inputs (N, 3, 32, 32)."""
    return _for_cifar(VGG16, num_classes)


@register("vgg19_bn_cifar", num_classes=10, input_shape=(3, 32, 32))
def vgg19_bn_cifar(num_classes: int) -> nn.Module:
    """20,035,018 parameters at 10 classes; inputs (N, 3, 32, 32)."""
    return _for_cifar(VGG19, num_classes)


@register("vgg_small_mnist", num_classes=10, input_shape=(1, 28, 28))
def vgg_small_mnist(num_classes: int) -> nn.Module:
    """435,754 parameters at 10 classes; inputs (N, 1, 28, 28)."""
    classifier = nn.Sequential(nn.Linear(128 * 3 * 3, 128), nn.ReLU(inplace=True), nn.Linear(128, num_classes))
    return VGG(_features(MNIST, in_channels=1, batch_norm=True), nn.Identity(), classifier)


@register("vgg16", num_classes=1000, input_shape=(3, 224, 224))
def vgg16(num_classes: int) -> nn.Module:
    """138,357,544 parameters at 1,000 classes; inputs (N, 3, 224, 224); torchvision's keys."""
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(4096, num_classes),
    )
    return VGG(_features(VGG16, in_channels=3, batch_norm=False), nn.AdaptiveAvgPool2d((7, 7)), classifier)
