"""Data sets and their splits: the built-in ones and the user's own."""

from tersenet.data.arrays import ArraySource
from tersenet.data.augment import Augmentation
from tersenet.data.batches import BatchSource, from_batches
from tersenet.data.cifar10 import cifar10
from tersenet.data.digits import digits
from tersenet.data.first import First
from tersenet.data.folder import image_folder
from tersenet.data.images import ImageSource
from tersenet.data.mnist import mnist
from tersenet.data.open import open_data
from tersenet.data.splits import Data, Inputs, SearchSplit, Source, TestSplit, TrainSplit

__all__ = [
    "ArraySource",
    "Augmentation",
    "BatchSource",
    "Data",
    "First",
    "ImageSource",
    "Inputs",
    "SearchSplit",
    "Source",
    "TestSplit",
    "TrainSplit",
    "cifar10",
    "digits",
    "from_batches",
    "image_folder",
    "mnist",
    "open_data",
]
