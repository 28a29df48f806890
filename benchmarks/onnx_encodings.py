"""ONNX files in every encoding of weights: bytes beside the packed file, time beside the dense one, what they compute.

ResNet-20 as trained, every convolution and linear layer in the same form, no tuning. What is stored
plainly is fp16 and norms are folded, in the ONNX file as in the packed one. `zeros80` has the 80 % smallest weights
of every layer set to zero first.

- `size_ratio`: ONNX file over packed file. `structure_bytes`: of the ONNX file without the values of its constants.
- `latency_1`, `latency_64`: median of one pass over that of the dense fp32 file, all files in turns in one run,
  onnxruntime, one thread; `ms_1`, `ms_64` the medians. `load_ms`: to load the file, median of 5.
- `difference`: largest difference to torch over the largest output, on 500 images of the search split; `agreement`:
  images with the same class, in percent.

    python benchmarks/onnx_encodings.py --data DATA_FOLDER

DATA_FOLDER holds weights/ and cifar10/. All rows are measured anew, since latencies of two runs do not compare.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import RESULTS, ResultFile, command_line, parsed, print_rows

from tersenet import data, models, pack
from tersenet.core.plan import Plan
from tersenet.core.policy import Clusters, Linear, Policy, Storage
from tersenet.export import OnnxRunner, check_onnx, export_onnx
from tersenet.export.encodings import LinearEncoding
from tersenet.measurement.latency import measure_latency
from tersenet.transforms.clusters import share_weights
from tersenet.transforms.coded import CodedWeights
from tersenet.transforms.quantize import quantize

FORMS: dict[str, Storage] = {
    "k16": Clusters(n_clusters=16),
    "k8": Clusters(n_clusters=8),
    "k5": Clusters(n_clusters=5),
    "k16-zeros80": Clusters(n_clusters=16),
    "linear8": Linear(weight_bits=8),
    "linear4": Linear(weight_bits=4),
    "linear2": Linear(weight_bits=2),
}
ZEROS = {"k16-zeros80": 0.8}
NETWORK = "resnet20"
NUM_IMAGES = 500
BATCH_SIZES = (1, 64)
COLUMNS = (
    "method", "size_bytes", "compression_ratio", "packed_bytes", "size_ratio", "structure_bytes", "difference",
    "agreement", "load_ms", "ms_1", "latency_1", "ms_64", "latency_64",
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """One ONNX file and the network it was made from."""

    path: Path
    model: nn.Module
    packed_bytes: int


def coded_weights(model: nn.Module, method: str) -> tuple[Policy, dict[str, CodedWeights]]:
    """Every convolution and linear layer in this form."""
    form, share = FORMS[method], ZEROS.get(method, 0.0)
    coded: dict[str, CodedWeights] = {}
    storage: dict[str, Storage] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach().clone()
            weight[weight.abs() < torch.quantile(weight.abs().flatten(), share)] = 0.0
            if isinstance(form, Clusters):
                coded[f"{name}.weight"] = share_weights(weight, form)
            elif isinstance(form, Linear):
                coded[f"{name}.weight"] = quantize(weight, form.weight_bits, axis=0)
            storage[name] = form
    return Policy(storage=storage), coded


def export_all(original: nn.Module, example: Tensor, folder: Path) -> dict[str, Exported]:
    """Every form as a file; linear ones in both encodings."""
    files: dict[str, Exported] = {}

    def add(method: str, policy: Policy, coded: dict[str, CodedWeights], encoding: LinearEncoding = "folded") -> None:
        dtype: Literal["fp32", "fp16"] = "fp32" if method == "fp32" else "fp16"
        norms: pack.Norms = "folded" if coded else "full"
        facts = {"plan": Plan(), "policy": policy, "provenance": {}, "dtype": dtype, "norms": norms, "coded": coded}
        model = pack.as_stored(original, policy=policy, dtype=dtype, norms=norms, coded=coded)
        packed = pack.packed_bytes(model, **facts)  # type: ignore[arg-type]
        path = folder / f"{method}.onnx"
        export_onnx(path, model, example, weights_fp16=dtype == "fp16", coded=coded, encoding=encoding)
        files[method] = Exported(path, model, len(packed))

    add("fp32", Policy(), {})
    add("fp16", Policy(), {})
    for method, form in FORMS.items():
        policy, coded = coded_weights(original, method)
        add(method, policy, coded)
        if isinstance(form, Linear):
            add(f"{method}-dequantize", policy, coded, "dequantize")
    return files


def size_row(one: Exported, images: Tensor) -> dict[str, object]:
    """Bytes, and what the file computes."""
    size = one.path.stat().st_size
    tensors = [*one.model.parameters(), *(buffer for buffer in one.model.buffers() if buffer.is_floating_point())]
    check = check_onnx(one.path, one.model, [images], num_threads=1)
    constants = onnx.load(str(one.path)).graph.initializer
    return {
        "size_bytes": size,
        "compression_ratio": 4 * sum(tensor.numel() for tensor in tensors) / size,
        "packed_bytes": one.packed_bytes,
        "size_ratio": size / one.packed_bytes,
        "structure_bytes": size - sum(len(constant.raw_data) for constant in constants),
        "difference": check.max_relative_difference,
        "agreement": 100 * (check.agreement or 0.0),
    }


def time_rows(files: dict[str, Exported], images: Tensor, num_runs: int) -> dict[str, dict[str, object]]:
    """Loading, and passes of all files in turns."""
    loads: dict[str, list[float]] = {method: [] for method in files}
    for _ in range(5):
        for method, one in files.items():
            started = time.perf_counter()
            OnnxRunner(one.path, num_threads=1)
            loads[method].append(1e3 * (time.perf_counter() - started))
    rows: dict[str, dict[str, object]] = {method: {"load_ms": median(times)} for method, times in loads.items()}
    runners = {method: OnnxRunner(one.path, num_threads=1) for method, one in files.items()}
    for size in BATCH_SIZES:
        batch = images[:size]
        passes = {method: partial(runner, batch) for method, runner in runners.items()}
        runs = num_runs if size == 1 else max(10, num_runs // 10)
        times = measure_latency(passes, num_runs=runs, runtime="onnxruntime", batch_size=size)
        for method, latency in times.items():
            ratio = latency.median_ms / times["fp32"].median_ms
            rows[method] |= {f"ms_{size}": latency.median_ms, f"latency_{size}": ratio}
    return rows


def main() -> None:
    """Measure all rows and print them."""
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=int, default=200, help="timed passes of batch 1; a tenth of batch 64")
    arguments = parsed(parser)
    started = time.perf_counter()
    torch.set_num_threads(1)
    folder = arguments.data
    model = models.build(NETWORK).eval()
    models.load_weights(model, folder / "weights" / f"{NETWORK}_cifar10.safetensors")
    split = data.cifar10(folder / "cifar10").search
    inputs, _ = next(iter(split.source.batches(NUM_IMAGES)))
    images = inputs if isinstance(inputs, Tensor) else inputs[0]
    with tempfile.TemporaryDirectory() as scratch:
        files = export_all(model, images[:2], Path(scratch))
        rows = {method: size_row(one, images) for method, one in files.items()}
        for method, times in time_rows(files, images, arguments.runs).items():
            rows[method] |= times
    (RESULTS / "onnx_encodings.json").unlink(missing_ok=True)
    results = ResultFile("onnx_encodings", command="python benchmarks/onnx_encodings.py")
    for method, row in rows.items():
        row = {"network": NETWORK, "data": "cifar10", "method": method, **row}
        results.add(row, seconds=time.perf_counter() - started)
        started = time.perf_counter()
    print_rows(results.rows, COLUMNS)


if __name__ == "__main__":
    main()
