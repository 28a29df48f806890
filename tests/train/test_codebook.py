"""Tuning of codebooks: gradients, what stays fixed, what is left behind, and training by ``fit``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.core.policy import Clusters
from tersenet.core.progress import Silent
from tersenet.data.batches import BatchSource
from tersenet.data.splits import SearchSplit, TrainSplit
from tersenet.errors import PolicyError
from tersenet.testing.networks import build, example_inputs
from tersenet.train import Assignments, TrainConfig, attach_codebooks, detach_codebooks, fit
from tersenet.train.optimizer import split_parameters
from tersenet.transforms import SharedWeights, share_weights, write_values

BOTH: tuple[Assignments, ...] = ("fixed", "straight_through")


def coded_by_hand() -> SharedWeights:
    """Weights [[-1, 0, 2], [2, 2, 0]]: one, two and three members."""
    return SharedWeights(
        codebooks=np.array([[-1.0, 0.0, 2.0]], dtype=np.float16),
        indices=np.array([[0, 1, 2], [2, 2, 1]], dtype=np.uint8),
        axis=0,
        channels_per_codebook=2,
    )


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def by_hand(assignments: Assignments = "fixed") -> tuple[Any, Any]:
    """A layer with the codebook above, and what holds the codebook."""
    coded = coded_by_hand()
    layer: Any = linear(torch.from_numpy(coded.values()))
    attach_codebooks(layer, {"weight": coded}, assignments=assignments)
    return layer, layer.parametrizations.weight[0]


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 5, 2, stride=2),
            nn.Flatten(),
            nn.Linear(5 * 144, 2),
        )


def coded_for(model: nn.Sequential, *, k: int = 4, **more: Any) -> dict[str, SharedWeights]:
    decision = Clusters(n_clusters=k, **more)
    axes = {"0.weight": 0, "3.weight": 1, "5.weight": 0}
    return {name: share_weights(model.get_parameter(name), decision, axis=axis) for name, axis in axes.items()}


def splits() -> tuple[TrainSplit, SearchSplit]:
    """Two classes: a bright left or a bright right half."""
    generator = torch.Generator().manual_seed(0)
    pictures, targets = torch.randn(96, 1, 6, 6, generator=generator), torch.arange(96) % 2
    pictures[targets == 0, :, :, :3] += 0.7
    pictures[targets == 1, :, :, 3:] += 0.7
    batches = [(pictures[at : at + 16], targets[at : at + 16]) for at in range(0, 96, 16)]
    return TrainSplit(BatchSource(batches[:4])), SearchSplit(BatchSource(batches[4:]))


def config(**changes: Any) -> TrainConfig:
    base: dict[str, Any] = {"seed": 3, "epochs": 3, "batch_size": 16, "learning_rate": 0.05}
    return TrainConfig(**(base | {"autocast": "off", "channels_last": "off"} | changes))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_members() -> None:
    layer, values = by_hand()
    x = torch.tensor([[1.0, 10.0, 100.0]])
    # outputs y0 = w00 + 10 w01 + 100 w02, y1 likewise; loss = y0 + 7 y1
    (layer(x) @ torch.tensor([1.0, 7.0])).sum().backward()
    # -1: w00 -> 1; 2: w02, w10, w11 -> 100 + 7 + 70. Units: 1 for one member, 1/2 for three (2^-round(log2(3)/2))
    torch.testing.assert_close(values.units, torch.tensor([1.0, 0.0, 0.5]))
    torch.testing.assert_close(values.codebook.grad, torch.tensor([1.0, 0.0, 177.0 * 0.5]))
    torch.testing.assert_close(values.codebook * values.units, torch.tensor([-1.0, 0.0, 2.0]))


@pytest.mark.parametrize("per_codebook", [None, 2])
@pytest.mark.parametrize("assignments", BOTH)
def test_gradients_are_those_of_looking_up_with_torch(assignments: Assignments, per_codebook: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(5, 3, 2, 2, generator=generator), torch.randn(4, 3, 6, 6, generator=generator)
    coded = share_weights(weight, Clusters(n_clusters=3, channels_per_codebook=per_codebook))
    layer: Any = nn.Conv2d(3, 5, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    attach_codebooks(layer, {"weight": coded}, assignments=assignments)
    layer(x).square().sum().backward()

    rows = torch.from_numpy(coded.codebooks.astype(np.float32)).requires_grad_()
    blocks = torch.arange(5) // (per_codebook or 5)
    shared = rows[blocks[:, None, None, None], torch.from_numpy(coded.indices.astype(np.int64))]
    shared.retain_grad()
    torch.autograd.backward(F.conv2d(x, shared).square().sum())
    values = layer.parametrizations.weight[0]
    assert rows.grad is not None
    torch.testing.assert_close(values.codebook.grad, rows.grad.flatten() * values.units)
    latent = layer.parametrizations.weight.original
    if assignments == "fixed":
        assert latent.grad is None
    else:
        torch.testing.assert_close(latent.grad, shared.grad)


def test_gradients_agree_with_finite_differences() -> None:
    weight = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    layer: Any = linear(weight)
    attach_codebooks(layer, {"weight": share_weights(weight, Clusters(n_clusters=3, codebook_bits=32))})
    values, latent = layer.parametrizations.weight[0], layer.parametrizations.weight.original
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def loss(codebook: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(values, {"codebook": codebook}, (latent,))
        return (x @ found.T).tanh().sum()

    start = values.codebook.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (start,))


@pytest.mark.parametrize("assignments", BOTH)
def test_training_moves_shared_values_and_leaves_zeros_exactly_zero(assignments: Assignments) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("5.weight")[:, ::3] = 0.0
    coded = coded_for(model)
    attach_codebooks(model, coded, assignments=assignments)
    fit(model, *splits(), config(weight_decay=0.1))
    tuned = detach_codebooks(model)
    assert (model.get_parameter("5.weight")[:, ::3] == 0).all()
    assert (tuned["5.weight"].codebooks == 0).any()
    for name, weights in tuned.items():
        same_entries = np.array_equal(weights.indices, coded[name].indices)
        assert not np.array_equal(weights.codebooks, coded[name].codebooks)
        assert same_entries or assignments == "straight_through"
        assert weights.codebooks.shape[1] <= coded[name].codebooks.shape[1]


def test_straight_through_assigns_weights_anew_and_fixed_never_does() -> None:
    for assignments in BOTH:
        layer, values = by_hand(assignments)
        with torch.no_grad():
            values.codebook[0] = 1.75  # now 1.75, 0, 2: the latent -1 is nearest to 0
        expected = [[1.75, 0, 2], [2, 2, 0]] if assignments == "fixed" else [[0, 0, 2], [2, 2, 0]]
        torch.testing.assert_close(layer.weight, torch.tensor(expected, dtype=torch.float32))


def test_straight_through_looks_for_the_nearest_entry_of_its_own_block() -> None:
    weight = torch.randn(7, 11, generator=torch.Generator().manual_seed(5))
    coded = share_weights(weight, Clusters(n_clusters=4, channels_per_codebook=3))
    layer: Any = linear(weight)
    attach_codebooks(layer, {"weight": coded}, assignments="straight_through")
    moved = torch.randn(7, 11, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(moved)
    rows = torch.from_numpy(coded.codebooks.astype(np.float32))[torch.arange(7) // 3]
    nearest = (moved[:, :, None] - rows[:, None, :]).abs().argmin(dim=2)
    torch.testing.assert_close(layer.weight, rows.gather(1, nearest))


@pytest.mark.parametrize("assignments", BOTH)
@pytest.mark.parametrize("more", [{}, {"codebook_bits": 32}, {"channels_per_codebook": 2}])
def test_codebooks_come_back_as_they_were_given_and_the_module_is_plain(
    assignments: Assignments, more: dict[str, Any]
) -> None:
    model = network()
    coded = coded_for(model, **more)
    written = copy.deepcopy(model)
    write_values(written, coded)
    identities = [id(parameter) for parameter in model.parameters()]
    x = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    attach_codebooks(model, coded, assignments=assignments)
    torch.testing.assert_close(model(x), written(x), rtol=0, atol=0)
    found = detach_codebooks(model)
    assert list(found) == list(coded)
    for name, weights in found.items():
        np.testing.assert_array_equal(weights.values(), coded[name].values())
        assert weights.codebooks.dtype == coded[name].codebooks.dtype
    assert [type(module) for module in model] == [type(module) for module in written]
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(x)  # a fresh pass, so that both have seen as many batches
    written(x)
    assert list(model.state_dict()) == list(written.state_dict())
    assert all(torch.equal(model.state_dict()[name], written.state_dict()[name]) for name in coded)
    assert detach_codebooks(model) == {}


def test_what_is_delivered_is_what_was_trained_bit_for_bit() -> None:
    model = network()
    attach_codebooks(model, coded_for(model))
    fit(model, *splits(), config())
    layers: Any = model
    tuned = {f"{at}.weight": layers[at].weight.detach().clone() for at in (0, 3, 5)}
    found = detach_codebooks(model)
    for name, weights in found.items():
        assert torch.equal(model.get_parameter(name), tuned[name])
        np.testing.assert_array_equal(tuned[name], weights.values())
        assert (np.diff(weights.codebooks.astype(float)) > 0).all()


def test_entries_that_meet_become_one_and_unused_ones_go() -> None:
    layer, values = by_hand()
    with torch.no_grad():
        values.codebook.copy_(torch.tensor([2.0, 5.0, 4.0]))  # values 2, 0, 2
    found = detach_codebooks(layer)["weight"]
    np.testing.assert_array_equal(found.codebooks, np.array([[0.0, 2.0]], dtype=np.float16))
    np.testing.assert_array_equal(found.indices, [[1, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("assignments", BOTH)
def test_a_copy_is_independent_and_detaching_it_leaves_the_original(assignments: Assignments) -> None:
    model = network()
    attach_codebooks(model, coded_for(model), assignments=assignments)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = copy.deepcopy(model)
    fit(copied, *splits(), config())
    detach_codebooks(copied)
    assert same(model.state_dict(), state)
    assert model(torch.zeros(1, 1, 6, 6)).shape == (1, 2)
    assert set(detach_codebooks(model)) == {"0.weight", "3.weight", "5.weight"}


@pytest.mark.parametrize("assignments", BOTH)
def test_a_state_dict_puts_a_trained_codebook_back(assignments: Assignments) -> None:
    trained, other = network(), network()
    coded = coded_for(trained)
    attach_codebooks(trained, coded, assignments=assignments)
    fit(trained, *splits(), config())
    attach_codebooks(other, coded, assignments=assignments)
    other.load_state_dict(trained.state_dict())
    assert same(other.state_dict(), trained.state_dict())
    first, second = detach_codebooks(trained), detach_codebooks(other)
    for name in coded:
        np.testing.assert_array_equal(first[name].values(), second[name].values())


class Interrupting(Silent):
    """Presses Ctrl-C when an epoch is reported."""

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        if facts["epoch"].startswith("2/") and "top-1" in facts:
            raise KeyboardInterrupt


@pytest.mark.parametrize("assignments", BOTH)
def test_an_interrupted_training_ends_with_the_same_codebooks(tmp_path: Path, assignments: Assignments) -> None:
    models = [network() for _ in range(3)]
    for model in models:
        attach_codebooks(model, coded_for(model), assignments=assignments)
    path = tmp_path / "fit.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(models[0], *splits(), config(epochs=4), checkpoint=path, progress=Interrupting())
    fit(models[1], *splits(), config(epochs=4), checkpoint=path)
    fit(models[2], *splits(), config(epochs=4))
    assert same(models[1].state_dict(), models[2].state_dict())


def test_codebooks_get_no_weight_decay() -> None:
    model = network()
    attach_codebooks(model, coded_for(model))
    decayed, plain = split_parameters(model)
    assert decayed == []
    assert sum(parameter.numel() for parameter in plain) == 3 * 4 + 6 + 2 * 6 + 5 + 2  # 3 codebooks, biases, norm


def test_the_learning_rates_of_weights_suit_codebooks() -> None:
    model = network(4)
    fit(model, *splits(), config(epochs=6))
    attach_codebooks(model, coded_for(model, k=2))
    result = fit(model, *splits(), config(epochs=6, learning_rate=0.05))
    losses = [point.train_loss for point in result.epochs]
    assert losses[-1] < losses[0]
    assert result.best_quality > 80.0


def test_tied_weights_have_one_codebook_and_are_tied_again() -> None:
    for assignments in BOTH:
        model = build("tied_weights")
        inputs = example_inputs("tied_weights")
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        coded = share_weights(model.get_parameter("left.weight"), Clusters(n_clusters=3))
        attach_codebooks(model, {"left.weight": coded, "right.weight": coded}, assignments=assignments)
        model(*inputs).sum().backward()
        assert sum(key.endswith(".codebook") for key, _ in model.named_parameters()) == 1
        assert list(detach_codebooks(model)) == ["left.weight"]
        assert model.get_parameter("left.weight") is model.get_parameter("right.weight")
        assert [key for key, _ in model.named_parameters(remove_duplicate=False)] == names


def test_frozen_weights_stay_frozen() -> None:
    layer: Any = linear(torch.randn(3, 8))
    layer.weight.requires_grad_(False)
    for assignments in BOTH:
        attach_codebooks(
            layer, {"weight": share_weights(layer.weight, Clusters(n_clusters=2))}, assignments=assignments
        )
        assert not any(parameter.requires_grad for parameter in layer.parameters())
        detach_codebooks(layer)
        assert not layer.weight.requires_grad


def test_unknown_names_other_shapes_and_second_codebooks_are_refused_and_nothing_changes() -> None:
    model = network()
    coded = coded_for(model)
    names = list(model.state_dict())
    for wrong in (
        {"1.running_mean": coded["0.weight"]},
        {"nowhere": coded["0.weight"]},
        {"5.weight": coded["0.weight"]},
    ):
        with pytest.raises(PolicyError, match=r"no parameter|shape"):
            attach_codebooks(model, {"3.weight": coded["3.weight"], **wrong})
        assert list(model.state_dict()) == names
    attach_codebooks(model, coded)
    with pytest.raises(PolicyError, match="detach_codebooks"):
        attach_codebooks(model, coded)
