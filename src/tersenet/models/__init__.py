"""Networks: the built-in ones by name, the user's own by file or module, and their weights."""

from tersenet.models import digits_cnn, mobilenet_v2, resnet_cifar, vgg  # noqa: F401  (each enters its networks)
from tersenet.models.loading import load_model
from tersenet.models.registry import build, input_shape, names
from tersenet.models.weights import SPLIT_KEY, WeightsInfo, load_weights, save_weights, weights_hash

__all__ = [
    "SPLIT_KEY",
    "WeightsInfo",
    "build",
    "input_shape",
    "load_model",
    "load_weights",
    "names",
    "save_weights",
    "weights_hash",
]
