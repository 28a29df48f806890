"""How close a packed file is to what its content cannot go below, and what xz and zstd make of the same content.

Trained networks, every convolution and linear layer stored as 16 shared values (k-means) or as integers of 4 bits;
norms folded, the rest fp16; plan empty, a dozen facts as provenance.

- `ideal_bytes`: sum of the empirical entropies of the tensors' symbols, plus codebooks or scales, plus raw parts.
- `overhead`: the file over that, of which `outer_bytes` are header and index. At most 1 % and 4 KB is asked for; it is
  negative where contexts find more than the entropies of single symbols know.
- `estimate_error`: what a search adds up beforehand (`coded_bytes`, `estimate_overhead`) over the file, less 1.
- `xz_bytes`, `zstd_bytes`: symbols, one byte each or two in a byte, whichever is smaller, with codebooks and raw parts,
  under `xz -9` and `zstd -19`; no index at all.
- With `--large` only: VGG-16 for ImageNet with random weights of 4 bits, packed and restored.

    python benchmarks/packed_size.py --data DATA_FOLDER
    python benchmarks/packed_size.py --large

DATA_FOLDER holds weights/. Rows that are there already are kept. Peak memory is that of the process.
"""

from __future__ import annotations

import lzma
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, print_rows

from tersenet import models, pack
from tersenet.core.plan import Plan
from tersenet.core.policy import Clusters, Linear, Policy, Storage
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

NETWORKS = {
    "resnet20": "resnet20_cifar10",
    "resnet56": "resnet56_cifar10",
    "mobilenet_v2": "mobilenet_v2_imagenet",
}
FORMS: dict[str, Storage] = {"k16": Clusters(n_clusters=16), "linear4": Linear(weight_bits=4)}
FACTS = {f"fact {number}": f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(12)}
CLIP = 0.85
"""Largest integer of 4 bits over the channel's largest weight: what about minimises the squared error."""

SIZE_COLUMNS = (
    "network", "method", "size_bytes", "compression_ratio", "bits_per_weight", "ideal_bytes", "overhead", "outer_bytes",
    "estimate_error", "xz_bytes", "zstd_bytes", "pack_seconds", "load_seconds",
)  # fmt: skip
LARGE_COLUMNS = ("network", "method", "num_weights", "size_bytes", "pack_seconds", "load_seconds", "peak_gigabytes")


def kmeans(weights: NDArray[np.float32], n_clusters: int) -> SharedWeights:
    """Lloyd's algorithm on sorted weights, from quantiles."""
    ordered = np.sort(weights.ravel().astype(np.float64))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    centres = np.quantile(ordered, (np.arange(n_clusters) + 0.5) / n_clusters)
    for _ in range(30):
        ends = np.concatenate(([0], np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2), [len(ordered)]))
        sizes = np.diff(ends)
        centres = np.where(sizes > 0, (sums[ends[1:]] - sums[ends[:-1]]) / np.maximum(sizes, 1), centres)
    codebook = np.unique(centres.astype(np.float16))
    bounds = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    return SharedWeights(
        codebooks=codebook[None],
        indices=np.searchsorted(bounds, weights).astype(np.uint8),
        axis=0,
        channels_per_codebook=len(weights),
    )


def rounded(weights: NDArray[np.float32], bits: int) -> LinearWeights:
    """Integers times a scale per output channel."""
    largest = 2 ** (bits - 1) - 1
    widest = np.abs(weights.reshape(len(weights), -1)).max(axis=1)
    scales = np.maximum(CLIP * widest / largest, 1e-7).astype(np.float16)
    ratio = weights / scales.astype(np.float32).reshape(-1, *[1] * (weights.ndim - 1))
    integers = np.clip(np.rint(ratio), -largest, largest).astype(np.int8)
    return LinearWeights(integers=integers, scales=scales, weight_bits=bits, axis=0)


def coded_weights(model: nn.Module, form: Storage) -> tuple[Policy, dict[str, CodedWeights]]:
    """Every convolution and linear layer in this form."""
    coded: dict[str, CodedWeights] = {}
    storage: dict[str, Storage] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights = module.weight.detach().numpy()
            coded[f"{name}.weight"] = kmeans(weights, 16) if isinstance(form, Clusters) else rounded(weights, 4)
            storage[name] = form
    return Policy(storage=storage), coded


def symbols_of(weights: CodedWeights) -> NDArray[np.uint8]:
    """The small integers of one tensor, from 0."""
    if isinstance(weights, SharedWeights):
        return weights.indices.ravel().astype(np.uint8)
    return (weights.integers.ravel() + 7).astype(np.uint8)


def entropy_bytes(symbols: NDArray[np.uint8]) -> float:
    """Symbols x their empirical entropy."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum()) / 8


def best_of(symbols: NDArray[np.uint8], rest: bytes) -> tuple[int, int]:
    """Bytes under xz -9 and zstd -19, each with the better way to write the symbols."""
    even = np.concatenate([symbols, np.zeros(len(symbols) % 2, np.uint8)])
    contents = [written.tobytes() + rest for written in (symbols, even[::2] | even[1::2] << 4)]
    zstd = zstandard.ZstdCompressor(level=19)
    return (
        min(len(lzma.compress(content, preset=9)) for content in contents),
        min(len(zstd.compress(content)) for content in contents),
    )


def plain_parts(small: nn.Module, coded: Mapping[str, CodedWeights]) -> bytes:
    """Codebooks, scales, and in fp16 whatever else the network holds; folded statistics and counters left out."""
    parts = [one.codebooks if isinstance(one, SharedWeights) else one.scales for one in coded.values()]
    parts += [
        values.detach().numpy().astype(np.float16) for name, values in small.named_parameters() if name not in coded
    ]
    return b"".join(part.tobytes() for part in parts)


def size_row(network: str, method: str, weights: Path) -> dict[str, object]:
    """One network in one form."""
    model = models.build(network).eval()
    models.load_weights(model, weights)
    policy, coded = coded_weights(model, FORMS[method])
    small = pack.as_stored(model, policy=policy, dtype="fp16", norms="folded", coded=coded)
    started = time.perf_counter()
    content = pack.packed_bytes(
        small, plan=Plan(), policy=policy, provenance=FACTS, dtype="fp16", norms="folded", coded=coded
    )
    packed = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tersenet"
        path.write_bytes(content)
        restoring = time.perf_counter()
        restored = pack.load(path, model)
        loaded = time.perf_counter()
        info = pack.read_info(path)
    for name, values in small.state_dict().items():
        assert torch.equal(restored.state_dict()[name], values), name
    symbols = [symbols_of(one) for one in coded.values()]
    plain = plain_parts(small, coded)
    ideal = sum(map(entropy_bytes, symbols)) + len(plain)
    xz, zstd = best_of(np.concatenate(symbols), plain)
    options = {"policy": policy, "dtype": "fp16", "norms": "folded"}
    widths = pack.bytes_per_element(small, coded=coded, **options)  # type: ignore[arg-type]
    estimate = sum(width * small.state_dict()[name].numel() for name, width in widths.items())
    estimate += pack.estimate_overhead(model, Plan(), provenance=FACTS, **options)  # type: ignore[arg-type]
    numbers = [*model.parameters(), *(one for one in model.buffers() if one.is_floating_point())]
    return {
        "network": network,
        "method": method,
        "size_bytes": len(content),
        "compression_ratio": 4 * sum(one.numel() for one in numbers) / len(content),
        "bits_per_weight": 8 * len(content) / sum(one.numel() for one in model.parameters()),
        "ideal_bytes": round(ideal),
        "overhead": f"{100 * (len(content) / ideal - 1):.2f} %",
        "outer_bytes": info.size_bytes - info.payload_bytes,
        "within_bound": len(content) <= 1.01 * ideal + 4000,
        "estimate_error": f"{100 * (estimate / len(content) - 1):.2f} %",
        "xz_bytes": xz,
        "zstd_bytes": zstd,
        "pack_seconds": round(packed - started, 2),
        "load_seconds": round(loaded - restoring, 2),
    }


def large_row() -> dict[str, object]:
    """VGG-16 with random weights, there and back."""
    torch.manual_seed(0)
    model = models.build("vgg16").eval()
    policy, coded = coded_weights(model, FORMS["linear4"])
    with torch.no_grad():
        for name, weights in coded.items():
            model.get_parameter(name).copy_(torch.from_numpy(weights.values()))
    num_weights = sum(model.get_parameter(name).numel() for name in coded)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.tersenet"
        started = time.perf_counter()
        size = pack.save_packed(
            path, model, plan=Plan(), policy=policy, provenance=FACTS, dtype="fp16", norms="folded", coded=coded
        )
        packed = time.perf_counter()
        restored = pack.load(path, model)
        loaded = time.perf_counter()
    for name in coded:
        assert torch.equal(restored.get_parameter(name), model.get_parameter(name)), name
    return {
        "network": "vgg16",
        "method": "linear4",
        "num_weights": num_weights,
        "size_bytes": size,
        "pack_seconds": round(packed - started, 1),
        "load_seconds": round(loaded - packed, 1),
        "peak_gigabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def main() -> None:
    """Fill in the rows that are missing, then print all."""
    parser = command_line(__doc__)
    parser.add_argument("--large", action="store_true", help="VGG-16 instead of the others")
    arguments = parser.parse_args()
    results = ResultFile("packed_size", command="python benchmarks/packed_size.py [--large]")
    if arguments.large:
        if not results.has(network="vgg16"):
            started = time.perf_counter()
            row = large_row()
            results.add(row, seconds=time.perf_counter() - started)
    elif arguments.data is None:
        parser.error("give --data, the folder that holds weights/")
    else:
        for network, weights in NETWORKS.items():
            for method in FORMS:
                if not results.has(network=network, method=method):
                    started = time.perf_counter()
                    row = size_row(network, method, arguments.data / "weights" / f"{weights}.safetensors")
                    results.add(row, seconds=time.perf_counter() - started)
    print_rows([row for row in results.rows if "ideal_bytes" in row], SIZE_COLUMNS)
    print()
    print_rows([row for row in results.rows if "peak_gigabytes" in row], LARGE_COLUMNS)


if __name__ == "__main__":
    main()
