"""How a recipe's settings become those of fine-tuning."""

from types import SimpleNamespace
from typing import cast

import pytest

from tersenet.api.building import TuningJob, train_config
from tersenet.recipes import TUNING, ChannelConfig


def job(config: ChannelConfig) -> TuningJob:
    parts = SimpleNamespace(prepared=SimpleNamespace(config=config), options=SimpleNamespace(device="cpu"), seed=3)
    return cast(TuningJob, parts)


def test_what_a_recipe_says_of_fine_tuning_is_how_the_network_is_trained() -> None:
    config = ChannelConfig(
        finetune_epochs=4,
        finetune_learning_rate=0.03,
        finetune_batch_size=32,
        distill_weight=0.25,
        label_smoothing=0.15,
    )
    found = train_config(job(config))
    assert (found.epochs, found.learning_rate, found.batch_size, found.seed) == (4, 0.03, 32, 3)
    assert (found.distill_weight, found.label_smoothing) == (0.25, 0.15)


@pytest.mark.parametrize("name", [name for name in TUNING if name != "assignments"])  # that one is of codebooks
def test_every_setting_of_fine_tuning_changes_it(name: str) -> None:
    changed = ChannelConfig.model_validate({name: getattr(ChannelConfig(), name) / 2 or 0.1})
    assert train_config(job(changed)) != train_config(job(ChannelConfig()))
