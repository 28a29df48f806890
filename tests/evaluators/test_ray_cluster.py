"""Trials on worker processes: the same results as in this process, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tersenet import recipes
from tersenet.cli.main import app
from tersenet.core.importing import import_object
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.progress import Silent
from tersenet.core.protocols import ParallelEvaluator
from tersenet.data.batches import BatchSource
from tersenet.data.splits import SearchSplit, TrainSplit
from tersenet.envs import Budget, Limit
from tersenet.errors import MissingExtraError, SearchError, TersenetError
from tersenet.evaluators import FreshEvaluator, RayEvaluator, check_workers
from tersenet.evaluators.ray_cluster import threads_of
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.measurement import Task
from tersenet.recipes import Problem
from tersenet.search import Study, Trial, run_method

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

USER_CODE = """
import os, pathlib, signal, time
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)
        self.linear = nn.Linear(8, 7)
    def forward(self, x):
        x = self.conv2(torch.relu(self.norm(self.conv1(x))))
        return self.linear(torch.relu(x).mean(dim=(2, 3)))

def right(model, batches):
    found = [(model(inputs).argmax(1) == targets).float().mean().item() for inputs, targets in batches]
    return 100.0 * sum(found) / len(found)

def right_but_one_dies(model, batches):
    try:
        (HERE / "died").touch(exist_ok=False)
    except FileExistsError:
        return right(model, batches)
    os.kill(os.getpid(), signal.SIGKILL)

def dies(model, batches):
    os._exit(3)

def fails(model, batches):
    raise KeyError("the sensor is lost")

def process(model, batches):
    time.sleep(0.2)  # so that one worker cannot do the work of two
    return float(os.getpid())
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all tests here, as a program may have that uses Ray for other things as well."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Network:
    """A user's network with data; labels are what the uncut network says."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.module: nn.Module = self._named("Net")().eval()
            self._pictures = torch.randn(228, 3, 6, 6)
        with torch.no_grad():
            self._labels = self.module(self._pictures).argmax(1)
        self.graph: ModelGraph = trace(self.module, self._pictures[:2])

    def _named(self, name: str) -> Any:
        return import_object(f"{self._file}:{name}", what="model")

    def evaluator(self, metric: str = "") -> FreshEvaluator:
        """Measures its cut copies by a metric of the user's file, or by accuracy."""
        parts = [(self._pictures[part], self._labels[part]) for part in (slice(128), slice(128, 178), slice(178, 228))]
        return FreshEvaluator(
            self.module,
            self.graph,
            TrainSplit(BatchSource(parts[:1])),
            SearchSplit(BatchSource(parts[1:])),
            num_trial_samples=60,
            seed=0,
            task=Task(metric=self._named(metric), metric_name=metric) if metric else Task(),
        )

    def searched(self, evaluator: ParallelEvaluator, path: Path) -> list[tuple[object, ...]]:
        """What a short search tells, but for what was measured with a clock."""
        recipe = recipes.get("he2018")
        config = recipe.configure({"trials": 13, "lower_bound": 0.1})
        limit = Limit(
            kind="macs",
            table=cost_table(self.graph, "macs"),
            maximum=0.6 * self.graph.macs,
            original=float(self.graph.macs),
        )
        space = recipes.make_space(self.graph, config)
        problem = Problem(graph=self.graph, space=space, budget=Budget(limits=(limit,)), seed=0)
        with Study(path, identity=evaluator.signature) as study:
            trials = run_method(recipe.build(problem, config), study, evaluator, seed=0, progress=Silent())
        return [(trial.number, trial.policy, trial.reward, metrics_of(trial)) for trial in trials]


def metrics_of(trial: Trial) -> object:
    assert trial.evaluation is not None
    return trial.evaluation.metrics


@pytest.fixture
def network(tmp_path: Path) -> Network:
    (tmp_path / "user.py").write_text(USER_CODE)
    return Network(tmp_path / "user.py")


class OneByOne:
    """What the workers are compared with: as many trials in flight, all measured in this process."""

    def __init__(self, evaluator: FreshEvaluator, workers: int) -> None:
        self.evaluator = evaluator
        self.workers = workers
        self.signature = evaluator.signature

    def begin(
        self, policy: Policy, *, hopeless_below: float | None = None, confirm: bool = False
    ) -> Callable[[], Evaluation]:
        return lambda: self.confirm(policy) if confirm else self.evaluate(policy, hopeless_below=hopeless_below)

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        return self.evaluator.evaluate(policy, hopeless_below=hopeless_below)

    def confirm(self, policy: Policy) -> Evaluation:
        return self.evaluator.confirm(policy)


def half() -> Policy:
    return Policy(channels={"conv1": ChannelDecision(keep=(0, 2, 3, 7, 8, 11))})


@pytest.mark.slow
def test_two_runs_on_two_workers_tell_what_as_many_trials_in_flight_tell_in_one_process(
    network: Network, cluster: None, tmp_path: Path
) -> None:
    expected = network.searched(OneByOne(network.evaluator(), 2), tmp_path / "one.sqlite")
    assert len({reward for _, _, reward, _ in expected}) > 2
    for name in ("first", "second"):
        with RayEvaluator(network.evaluator(), workers=2) as evaluator:
            assert network.searched(evaluator, tmp_path / f"{name}.sqlite") == expected
            assert evaluator.confirm(half()).metrics == network.evaluator().confirm(half()).metrics


@pytest.mark.slow
def test_a_worker_that_is_killed_in_a_trial_changes_nothing_but_a_note(
    network: Network, cluster: None, tmp_path: Path
) -> None:
    notes: list[str] = []
    expected = network.searched(OneByOne(network.evaluator("right"), 2), tmp_path / "one.sqlite")
    with RayEvaluator(network.evaluator("right_but_one_dies"), workers=2, note=notes.append) as evaluator:
        found = network.searched(evaluator, tmp_path / "two.sqlite")
    assert (tmp_path / "died").exists()
    assert [(number, policy, reward) for number, policy, reward, _ in found] == [
        (number, policy, reward) for number, policy, reward, _ in expected
    ]
    assert len(notes) == 1
    assert "measured again" in notes[0]


@pytest.mark.slow
def test_work_is_spread_over_all_workers_and_one_that_was_killed_between_trials_is_replaced(
    network: Network, cluster: None
) -> None:
    with RayEvaluator(network.evaluator("process"), workers=2) as evaluator:
        waits = [evaluator.begin(half(), confirm=confirm) for confirm in (False, True, False, True)]
        first = [int(wait().metrics.quality) for wait in waits]
        os.kill(first[0], signal.SIGKILL)
        later = {int(evaluator.evaluate(half()).metrics.quality) for _ in range(2)}
    assert len(set(first)) == 2
    assert os.getpid() not in first
    assert first[0] not in later


@pytest.mark.slow
def test_a_trial_that_kills_every_worker_ends_the_search_and_names_the_policy(network: Network, cluster: None) -> None:
    with (
        RayEvaluator(network.evaluator("dies"), workers=2) as evaluator,
        pytest.raises(SearchError, match=rf"{half().digest()} cannot be measured: the worker process died 3 times"),
    ):
        evaluator.evaluate(half())


@pytest.mark.slow
def test_what_fails_in_a_worker_fails_here_as_it_would_without_workers(network: Network, cluster: None) -> None:
    wrong = Policy(channels={"nowhere": ChannelDecision(pruning_ratio=0.5)})
    for metric, policy in (("fails", half()), ("", wrong)):
        with pytest.raises(TersenetError) as expected:
            network.evaluator(metric).evaluate(policy)
        with RayEvaluator(network.evaluator(metric), workers=2) as evaluator, pytest.raises(TersenetError) as found:
            evaluator.evaluate(policy)
        assert found.type is expected.type
        assert str(found.value) == str(expected.value)
        assert "In a worker process" in found.value.__notes__[0]


@pytest.mark.slow
def test_the_cluster_of_a_search_ends_with_it_and_leaves_nothing(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.shutdown()  # the one of the other tests, which come before
    made: list[Path] = []
    make_folder = tempfile.mkdtemp

    def remembered(*arguments: Any, **options: Any) -> str:
        folder: str = make_folder(*arguments, **options)
        made.append(Path(folder))
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", remembered)
    environment = dict(os.environ)
    evaluator, workers = RayEvaluator(network.evaluator("process"), workers=2), []

    def search_until_interrupted() -> None:
        with evaluator:
            workers.append(int(evaluator.evaluate(half()).metrics.quality))
            assert made[0].is_dir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_until_interrupted()
    assert not ray.is_initialized()
    assert not made[0].exists()
    assert not Path(f"/proc/{workers[0]}").exists()
    assert dict(os.environ) == environment


@pytest.mark.slow
def test_outside_of_the_context_it_measures_here_and_begins_nothing(network: Network) -> None:
    evaluator = RayEvaluator(network.evaluator("process"), workers=2)
    assert int(evaluator.evaluate(half()).metrics.quality) == os.getpid()
    assert int(evaluator.confirm(half()).metrics.quality) == os.getpid()
    with pytest.raises(SearchError, match="with statement"):
        evaluator.begin(half())


def test_workers_share_the_threads_that_torch_would_use(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [threads_of(workers) for workers in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    assert RayEvaluator(network.evaluator(), workers=3).signature["threads"] == "2"


def test_workers_that_cannot_be_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    check_workers(1, "cuda")
    with pytest.raises(SearchError, match="workers=0 must be at least 1"):
        check_workers(0, "cpu")
    with pytest.raises(SearchError, match=r"device='cuda:0'. Set workers to 1"):
        check_workers(2, "cuda:0")
    monkeypatch.setattr("tersenet.evaluators.ray_cluster.find_spec", lambda name: None)
    check_workers(1, "cpu")
    with pytest.raises(MissingExtraError, match=r"pip install 'tersenet\[ray\]'"):
        check_workers(2, "cpu")


def test_the_command_line_says_which_extra_is_missing_before_it_opens_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.evaluators.ray_cluster.find_spec", lambda name: None)
    asked = ["compress", "digits_cnn", "--data", "nowhere", "--max-macs-ratio", "0.5", "--workers", "2"]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2
    assert "pip install 'tersenet[ray]'" in result.stderr
