"""Networks and tasks that are not what one expects, from end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet import Target
from tersenet.api import CompressOptions, Result, Task, compress, evaluate
from tersenet.data import Data, from_batches
from tersenet.models import weights_hash

pytestmark = pytest.mark.slow

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        logits: Tensor = self.last(x.mean((2, 3)))
        return logits


class OneByOne(Net):
    """Walks through its batch, so that an exported file takes only the batch size it was made with."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(OneByOne, self).forward(image[None]) for image in x])


class Bessel(Net):
    """Uses a function that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1e-3 * torch.special.i0e(x))


def batches(seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 4) for _ in range(2)]


def few() -> Data:
    return from_batches(batches(0), batches(1), batches(2))


def quick(model: nn.Module, task: Task | None = None) -> Result:
    options = CompressOptions(trials=2, finetune_epochs=1, controls=(), task=task or Task())
    return compress(model, data=few(), target=Target(max_macs_ratio=0.5), seed=0, options=options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_keeps_it(dtype: torch.dtype) -> None:
    model = Net().to(dtype)
    before = weights_hash(model)
    result = quick(model)
    assert weights_hash(model) == before
    assert {parameter.dtype for parameter in result.model.parameters()} == {dtype}
    assert all(check.passed for check in result.run.checks)
    again = evaluate(result.folder, model, data=few())
    assert again.metrics.top1 == result.run.compressed.top1


def test_a_batch_size_that_the_file_cannot_change_is_dealt_with() -> None:
    model = OneByOne()
    result = quick(model)
    assert all(check.passed for check in result.run.checks)
    again = evaluate(result.folder, model, data=few())
    assert again.onnx is not None
    assert again.onnx.top1 == again.metrics.top1 == result.run.compressed.top1


def test_a_network_that_onnx_cannot_express_is_delivered_without_it() -> None:
    result = quick(Bessel())
    assert "model.onnx" not in result.delivered
    assert "model.tersenet" in result.delivered
    assert any(caveat.startswith("No ONNX file was written.") for caveat in result.run.caveats)
    assert evaluate(result.folder, Bessel(), data=few()).onnx is None


def test_dictionaries_go_to_the_users_own_metric_and_loss() -> None:
    class Named(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
            return {"logits": super().forward(x)}

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], targets)

    def negative_loss(model: Callable[..., dict[str, Tensor]], given: Iterable[Batch]) -> float:
        values = [float(loss(model(images), labels)) for images, labels in given]
        return -sum(values) / len(values)

    result = quick(Named(), Task(metric=negative_loss, metric_name="minus loss", loss=loss))
    with torch.no_grad():
        expected = negative_loss(result.model, batches(2))
    assert result.run.compressed.score == pytest.approx(expected, rel=1e-5)
    assert result.run.compressed.top1 is None
