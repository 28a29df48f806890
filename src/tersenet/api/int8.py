"""The int8 file of a delivered network, where it was asked for: tried out, written, compared with torch, timed.

It is tried on the original network before anything is spent, because a search of hours should not end in an error that
was known at its beginning. What goes wrong all the same in the end is a caveat: the other files are there by then.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from tersenet.api.building import TuningJob
from tersenet.api.options import EXPORTS, INT8_FILE
from tersenet.api.prepare import Prepared
from tersenet.core.metrics import Latency
from tersenet.core.registry import unknown_name
from tersenet.core.summary import Int8File
from tersenet.data import Data, Inputs
from tersenet.errors import ArtifactError, MissingExtraError, ModelError
from tersenet.export import Int8Info, OnnxRunner, check_onnx, export_int8, export_onnx
from tersenet.measurement import accuracy_of, activation_ranges, measure_latency, measure_quality
from tersenet.measurement.placement import samples_per_pass

CALIBRATION_SAMPLES = 256
"""Training samples, as they are, that ranges of activations are taken from."""

TRIED_SAMPLES = 16
"""The same where it is only tried whether a file can be made."""

COMPARED_SAMPLES = 5000
"""Search samples, at most, on which file and torch are compared."""

BUSY = 1.25
"""How far the clock's gain may be above the one in processor time before the reader is told."""

TIMED_SECONDS = 10.0
WARMUP = 5
NUM_TIMED = 300


@dataclass(frozen=True, kw_only=True)
class Int8Delivered:
    """What came of the wish for an int8 file."""

    file: Int8File | None = None
    """None where none was asked for, or none could be made."""

    caveats: tuple[str, ...] = ()
    seconds: float = 0.0


def check_export(formats: Sequence[str]) -> None:
    """Refuse formats that are not known, or that the installed packages cannot write.

    Raises:
        UnknownNameError: there is no such format.
        MissingExtraError: a library is not installed.
    """
    for name in formats:
        if name not in EXPORTS:
            raise unknown_name("export format", name, list(EXPORTS))
        for library in ("onnx", "onnxscript", "onnxruntime"):
            if importlib.util.find_spec(library) is None:
                raise MissingExtraError(library, "onnx")


def try_export(prepared: Prepared, data: Data, formats: Sequence[str], *, seed: int) -> None:
    """Refuse formats that cannot be made of this network: each is made of the original, and loaded.

    Raises:
        ModelError: one cannot be made; the message says why.
    """
    check_export(formats)
    if "int8" not in formats:
        return
    with tempfile.TemporaryDirectory() as scratch:
        path, fp32 = Path(scratch) / INT8_FILE, Path(scratch) / "fp32.onnx"
        try:
            _write(path, fp32, prepared.model, prepared, data, num_samples=TRIED_SAMPLES, seed=seed)
            OnnxRunner(path)
        except (ModelError, ArtifactError) as error:
            raise ModelError(f"export='int8' cannot be made of this network: {error} Leave int8 out.") from error


def deliver_int8(job: TuningJob, model: nn.Module) -> Int8Delivered:
    """Write the int8 file of the delivered network and measure it; without the wish, an old one is taken away.

    Args:
        job: says whether it is wanted, and where it goes.
        model: as it was loaded from the packed file.
    """
    path = job.folder / INT8_FILE
    path.unlink(missing_ok=True)  # one of an earlier run would be of another network
    if "int8" not in job.options.export:
        return Int8Delivered()
    started = time.perf_counter()
    try:
        found = _written_and_measured(job, model, path)
    except (ModelError, ArtifactError) as error:
        path.unlink(missing_ok=True)
        return Int8Delivered(caveats=(f"No int8 file was written. {error}",))
    return Int8Delivered(file=found, caveats=tuple(_caveats(found)), seconds=time.perf_counter() - started)


def _caveats(found: Int8File) -> list[str]:
    caveats = [
        f"{INT8_FILE} is for speed, model.tersenet for size. Its accuracy and speed are those of this processor: on "
        "x86 without VNNI instructions it gains less, and sums of 8-bit products can saturate."
    ]
    wall, own = found.dense_latency.median_ms / found.latency.median_ms, found.dense_cpu_ms / found.cpu_ms
    if wall > BUSY * own:
        caveats.append(
            f"The machine was busy while {INT8_FILE} was timed, and long passes are interrupted more often: in "
            f"processor time it gains {own:.2f}x over the original, where the clock says {wall:.2f}x."
        )
    if found.cpu_ms >= found.fp32_cpu_ms:
        caveats.append(f"{INT8_FILE} is not faster than the compressed network in fp32 here: use model.onnx.")
    return caveats


def _write(
    path: Path, fp32: Path, model: nn.Module, prepared: Prepared, data: Data, *, num_samples: int, seed: int
) -> Int8Info:
    """Write the int8 file, and the fp32 one that it is made of."""
    export_onnx(fp32, model, single_sample(prepared))
    return export_int8(path, fp32, activation_ranges(fp32, _calibration(data, num_samples, seed=seed)))


def _calibration(data: Data, num_samples: int, *, seed: int) -> Iterator[Inputs]:
    """Training samples drawn from the whole split, which may be sorted by class; a batch at most too many."""
    missing = num_samples
    source = data.train.source
    size = min(num_samples, samples_per_pass(source))
    for inputs, _ in source.batches(size, shuffle_seed=seed):
        if missing <= 0:
            return
        yield inputs
        missing -= len(inputs[0] if isinstance(inputs, tuple) else inputs)


def single_sample(prepared: Prepared) -> tuple[Tensor, ...]:
    """One sample of every input: where a file's batch size is fixed, it is 1."""
    return tuple(tensor[:1] for tensor in prepared.example_inputs)


def _written_and_measured(job: TuningJob, model: nn.Module, path: Path) -> Int8File:
    with tempfile.TemporaryDirectory() as scratch:
        dense, fp32 = Path(scratch) / "dense.onnx", Path(scratch) / "fp32.onnx"
        info = _write(path, fp32, model, job.prepared, job.data, num_samples=CALIBRATION_SAMPLES, seed=job.seed)
        export_onnx(dense, job.prepared.model, single_sample(job.prepared))
        latencies, cpu_ms = _times({"dense": dense, "fp32": fp32, "int8": path}, job.data)
        sizes = {"fp32_size_bytes": fp32.stat().st_size, "dense_size_bytes": dense.stat().st_size}
    source, task = job.data.search.source, job.options.task
    first = min(COMPARED_SAMPLES, source.num_samples)
    size = samples_per_pass(source)
    same = check_onnx(path, model, (inputs for inputs, _ in source.batches(size, first=first)))
    top1 = torch_top1 = None
    if task.metric is None:
        runner = OnnxRunner(path)
        top1 = accuracy_of(lambda inputs: runner.predict(inputs)[0], source, first=first).top1
        torch_top1 = measure_quality(model, source, task, split="search", device=job.options.device, first=first).top1
    return Int8File(
        size_bytes=info.size_bytes,
        **sizes,
        num_int8_layers=len(info.int8_layers),
        fp32_layers=info.fp32_layers,
        calibration_samples=min(CALIBRATION_SAMPLES, job.data.train.source.num_samples),
        num_samples=same.num_samples,
        agreement=None if same.agreement is None else 100.0 * same.agreement,
        top1=top1,
        torch_top1=torch_top1,
        max_relative_difference=same.max_relative_difference,
        dense_latency=latencies["dense"],
        fp32_latency=latencies["fp32"],
        latency=latencies["int8"],
        dense_cpu_ms=cpu_ms["dense"],
        fp32_cpu_ms=cpu_ms["fp32"],
        cpu_ms=cpu_ms["int8"],
    )


class _Pass:
    """One forward pass, which notes the processor time of this thread, the only one that computes."""

    def __init__(self, path: Path, batch: tuple[Tensor, ...]) -> None:
        self._runner, self._batch = OnnxRunner(path, num_threads=1), batch
        self._seconds: list[float] = []

    def __call__(self) -> None:
        begin = time.thread_time()
        self._runner(self._batch)
        self._seconds.append(time.thread_time() - begin)

    def cpu_ms(self) -> float:
        """Median without the warm-up."""
        return 1000.0 * statistics.median(self._seconds[WARMUP:])


def _times(paths: dict[str, Path], data: Data) -> tuple[dict[str, Latency], dict[str, float]]:
    """Latency and processor time of all files in turns, so that a busy moment of the machine hits each."""
    batch = data.example_inputs(1)
    passes = {name: _Pass(path, batch) for name, path in paths.items()}
    found = measure_latency(
        passes, num_runs=NUM_TIMED, warmup=WARMUP, runtime="onnxruntime", seconds_budget=TIMED_SECONDS
    )
    return found, {name: one.cpu_ms() for name, one in passes.items()}
