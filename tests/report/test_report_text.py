"""The plain-text table: numbers of a run whose ratios are known."""

from __future__ import annotations

import re

from report_runs import int8_file, realistic_run

from tersenet.core.metrics import Metrics
from tersenet.report import before_after, evaluate_command, headline, int8_sentence, summary_table, verdict


def _line(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(start))
    return re.split(r"\s{2,}", line)


def test_the_table_shows_both_networks_and_the_change() -> None:
    text = summary_table(realistic_run())
    # 548112 / 1084392 - 1 = -49.45 %; 1084392 / 548112 = 1.978; 90.61 - 91.73 = -1.12
    assert _line(text, "Packed file") == ["Packed file, bytes", "1,084,392", "548,112", "-49.5 %"]
    assert _line(text, "Compression ratio") == ["Compression ratio, by bytes", "1.00x", "1.98x"]
    top1 = _line(text, "Top-1")
    # Wilson for 9173 and 9061 of 10,000, computed by the textbook's formula on paper
    assert top1 == ["Top-1 accuracy", "91.73 % [91.17 to 92.25]", "90.61 % [90.02 to 91.17]", "-1.12 points"]


def test_a_speed_up_within_the_spread_is_said_to_overlap() -> None:
    text = summary_table(realistic_run())
    # 6.41 / 6.22 = 1.031, and quartiles 6.15..6.86 and 5.97..6.66 overlap; 2.31 / 1.52 = 1.520, and theirs do not
    assert _line(text, "Latency, torch, batch 1,")[-1] == "1.03x faster, spreads overlap"
    assert _line(text, "Latency, onnxruntime, batch 1,")[-1] == "1.52x faster"


def test_every_line_is_ascii_and_none_ends_in_blanks() -> None:
    for line in summary_table(realistic_run()).splitlines():
        assert line.isascii()
        assert line == line.rstrip()


def test_a_users_own_score_takes_the_place_of_accuracy() -> None:
    run = realistic_run().model_copy(
        update={
            "dense": Metrics(score=0.5, score_name="mAP", macs=200, num_params=20),
            "compressed": Metrics(score=0.25, score_name="mAP", macs=100, num_params=5),
            "score_name": "mAP",
            "mcnemar": None,
        }
    )
    labels = [row.label for row in before_after(run)]
    assert "mAP" in labels
    assert not any("accuracy" in label for label in labels)
    assert "mAP goes from 0.5 to 0.25" in headline(run)
    assert verdict(run) == ""


def test_the_headline_names_cost_file_and_quality() -> None:
    assert headline(realistic_run()) == (
        "resnet20 keeps 55.9 % of its multiply-accumulates and 56.0 % of its parameters in a file 1.98 times smaller; "
        "top-1 accuracy goes from 91.73 % to 90.61 % on 10,000 test samples."
    )


def test_the_verdict_follows_the_p_value() -> None:
    run = realistic_run()
    assert run.mcnemar is not None
    assert "larger than chance explains" in verdict(run)
    sure = run.model_copy(update={"mcnemar": run.mcnemar.model_copy(update={"p_value": 0.2})})
    assert "chance alone could explain" in verdict(sure)


def test_the_command_that_measures_again_is_taken_from_the_one_that_was_run() -> None:
    run = realistic_run()
    assert evaluate_command(run) == "tersenet evaluate runs/r20 resnet20 --data cifar10:/data/cifar10"
    assert evaluate_command(run, "else where").startswith("tersenet evaluate 'else where' resnet20")


def test_a_run_from_python_gets_a_command_to_fill_in() -> None:
    run = realistic_run().model_copy(update={"provenance": {}})
    assert evaluate_command(run) == "tersenet evaluate RUN_DIR resnet20 --data cifar10"


def test_an_applied_policy_is_measured_with_its_model_and_not_its_policy_file() -> None:
    command = "tersenet apply p.json net.py:make --data 'my data.py:load' --metric m.py:f1 --out o"
    run = realistic_run().model_copy(update={"provenance": {"command": command}})
    expected = "tersenet evaluate o net.py:make --data 'my data.py:load' --metric m.py:f1"
    assert evaluate_command(run) == expected


def test_the_int8_file_is_said_to_be_for_speed_with_its_gain_and_its_agreement() -> None:
    run = realistic_run()
    # 1.1 / 0.5 = 2.2, 0.7 / 0.5 = 1.4; 0.48 / 1.08 = 0.444, 0.48 / 0.72 = 0.667
    assert int8_sentence(run) == (
        "The int8 file is for speed, the packed file for size. In onnxruntime, batch 1, 1 thread, it takes 0.5 ms; "
        "the original in fp32 1.10 ms (2.20x faster), the compressed network in fp32 0.7 ms (1.40x faster). It "
        "needs 44.4 % of the original's processor time, 66.7 % of the compressed one's. On 5,000 search samples it "
        "gives the compressed network's class on 99.42 %; top-1 there is 96.30 %, 96.44 % in torch."
    )
    assert summary_table(run).endswith(int8_sentence(run))
    slow = run.model_copy(update={"int8": int8_file(latency=int8_file().dense_latency, fp32_layers=("up.weight",))})
    # 1.1 / 0.7 = 1.571
    assert "1.57x slower" in int8_sentence(slow)
    assert "1 layer(s) stay fp32" in int8_sentence(slow)
    assert int8_sentence(run.model_copy(update={"int8": None})) == ""


def test_outputs_that_are_no_classes_are_compared_by_their_difference() -> None:
    run = realistic_run().model_copy(update={"int8": int8_file(agreement=None, top1=None, torch_top1=None)})
    assert "differ from torch's by up to 3.1 % of the largest" in int8_sentence(run)
    assert "class" not in int8_sentence(run)
