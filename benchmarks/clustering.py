"""How fast are a network's weights clustered for every k at once, and how well? ResNet-56, k from 2 to 256.

Seconds are processor seconds of one core for all convolutions and the linear layer. For some layers and k, squared
errors are divided by those of the full recurrence over all distinct values: ours, scikit-learn's KMeans (best of ten
starts) and Lloyd's iteration from Deep Compression's linear start. Prints both tables and writes
benchmarks/results/clustering.json; goes on where it was stopped.

    OMP_NUM_THREADS=1 python benchmarks/clustering.py --data DATA_FOLDER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from numpy.typing import NDArray
from rows import ResultFile, command_line, parsed, print_rows
from sklearn.cluster import KMeans

from tersenet import models
from tersenet.transforms import kmeans
from tersenet.transforms.kmeans import cluster, linear_init_lloyd, nearest

NETWORK = "resnet56"
MAX_K = 256
LAYERS = ("layer1.0.conv1", "layer2.3.conv1", "layer3.0.conv1", "layer3.8.conv2", "linear")
KS = (2, 3, 4, 8, 16, 32, 64, 256)
MOST_KS_OF_SKLEARN = 64  # beyond, ten starts take a minute per layer


def weights_of(path: Path) -> dict[str, NDArray[np.float32]]:
    """Weights by layer, flat."""
    model = models.build(NETWORK)
    models.load_weights(model, path)
    return {
        name.removesuffix(".weight"): tensor.detach().numpy().reshape(-1)
        for name, tensor in model.named_parameters()
        if tensor.ndim > 1
    }


def speed_row(weights: dict[str, NDArray[np.float32]]) -> dict[str, object]:
    """Processor seconds to cluster all layers for every k."""
    begin = time.process_time()
    for values in weights.values():
        cluster(values, max_k=MAX_K)
    return {
        "cluster_seconds": time.process_time() - begin,
        "num_layers": len(weights),
        "num_weights": sum(len(values) for values in weights.values()),
        "max_k": MAX_K,
    }


def error_rows(values: NDArray[np.float32]) -> list[dict[str, object]]:
    """Squared errors for each k over those of the full recurrence."""
    ours = cluster(values, max_k=MAX_K)
    most, kmeans._MOST_POINTS = kmeans._MOST_POINTS, len(values)
    full = cluster(values, max_k=MAX_K)
    kmeans._MOST_POINTS = most
    worst = max(ours.error(k) / full.error(k) for k in range(2, MAX_K + 1))
    rows: list[dict[str, object]] = []
    for k in KS:
        linear = linear_init_lloyd(values, k)
        row: dict[str, object] = {
            "k": k,
            "num_distinct": len(full.values),
            "error_ratio": ours.error(k) / full.error(k),
            "linear_start_ratio": _error(values, linear) / full.error(k),
            "linear_start_entries": len(linear),
            "worst_error_ratio": worst,
        }
        if k <= MOST_KS_OF_SKLEARN:
            points = values.astype(np.float64)[:, None]
            found = KMeans(n_clusters=k, n_init=10, random_state=0).fit(points).cluster_centers_[:, 0]
            row["sklearn_ratio"] = _error(values, np.sort(found)) / full.error(k)
        rows.append(row)
    return rows


def _error(values: NDArray[np.float32], codebook: NDArray[np.float64]) -> float:
    return float(np.square(values - codebook[nearest(codebook, values)]).sum())


def main() -> None:
    """Measure what is missing, print both tables."""
    arguments = parsed(command_line(__doc__))
    weights = weights_of(arguments.data / "weights" / f"{NETWORK}_cifar10.safetensors")
    file = ResultFile("clustering", command="OMP_NUM_THREADS=1 python benchmarks/clustering.py")
    fields: dict[str, object] = {"network": NETWORK, "data": "cifar10", "method": "exact-1d-kmeans", "seed": 0}
    if not file.has(table="speed"):
        row = speed_row(weights)
        file.add({"table": "speed"} | fields | row, seconds=float(str(row["cluster_seconds"])))
    for layer in LAYERS:
        if file.has(table="error", layer=layer):
            continue
        begin = time.process_time()
        rows = error_rows(weights[layer])
        share = (time.process_time() - begin) / len(rows)
        for row in rows:
            file.add({"table": "error", "layer": layer} | fields | row, seconds=share)
    print_rows([row for row in file.rows if row["table"] == "speed"], ("num_layers", "num_weights", "cluster_seconds"))
    ratios = ("error_ratio", "sklearn_ratio", "linear_start_ratio", "linear_start_entries", "worst_error_ratio")
    print_rows([row for row in file.rows if row["table"] == "error"], ("layer", "num_distinct", "k", *ratios))


if __name__ == "__main__":
    main()
