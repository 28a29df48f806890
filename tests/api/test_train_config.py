"""How a recipe's settings become those of fine-tuning."""

from types import SimpleNamespace
from typing import cast

from tersenet.api.building import TuningJob, train_config
from tersenet.api.compressing import TUNING
from tersenet.recipes import ChannelConfig


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


def test_settings_that_only_matter_after_a_search_are_settings_of_every_recipe() -> None:
    assert set(ChannelConfig.model_fields) >= TUNING
