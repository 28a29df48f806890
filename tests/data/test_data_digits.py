"""The digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tersenet.data import ArraySource, Data, digits
from tersenet.errors import MissingExtraError


def sources(data: Data) -> list[ArraySource]:
    found = [data.train.source, data.search.source, data.test.source]
    return [source for source in found if isinstance(source, ArraySource)]


def test_the_splits_have_their_sizes_and_all_classes_alike() -> None:
    data = digits()
    train, search, test = sources(data)
    assert [source.num_samples for source in (train, search, test)] == [1000, 297, 500]
    assert (data.num_classes, data.input_shape, data.num_trial_samples) == (10, (1, 8, 8), 148)
    share = np.bincount(load_digits().target) / 1797
    for source in (train, search, test):
        counts = np.bincount(source.targets.numpy(), minlength=10)
        np.testing.assert_allclose(counts, share * source.num_samples, atol=2)


def test_every_image_is_in_exactly_one_split() -> None:
    found = torch.cat([source.inputs for source in sources(digits())]).flatten(1).mul(16).int().tolist()
    assert sorted(found) == sorted(load_digits().data.astype(int).tolist())


def test_the_inputs_are_normalised() -> None:
    source = digits().train.source
    assert isinstance(source, ArraySource)
    inputs, _ = source.tensor()
    assert abs(float(inputs.mean())) < 0.02
    assert abs(float(inputs.std()) - 1) < 0.02


def test_the_hash_is_the_same_every_time() -> None:
    assert digits().content_hash == digits().content_hash


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*pip install 'tersenet\[data\]'"):
        digits()
