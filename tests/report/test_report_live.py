"""The figures of a network whose channels were switched while it trained."""

from __future__ import annotations

import pytest
from report_runs import realistic_run

from tersenet.core.summary import RoundPoint, RunSummary
from tersenet.report import render_html
from tersenet.report.live_figures import activity_figure, groups_figure, slopes


def with_rounds(count: int = 12) -> RunSummary:
    run = realistic_run()
    groups = [group for group in run.groups if group.prunable][:4]
    total = sum(group.num_channels for group in groups)
    rounds = []
    for index in range(count):
        num_on = {group.group_id: max(2, group.num_channels - index) for group in groups}
        rounds.append(
            RoundPoint(
                index=index,
                exploring=max(0.05, 1.0 - index / 6),
                quality=90.0 + index,
                reference=99.5,
                cost=1.0 - index / 20,
                num_on=num_on,
                num_off=4 if index else 0,
                num_woken=0,
                num_settled=total * index // count,
                seconds=2.0,
            )
        )
    return run.model_copy(update={"rounds": tuple(rounds)})


@pytest.mark.slow
def test_the_page_shows_rounds_where_there_were_some_and_nothing_otherwise() -> None:
    page = render_html(with_rounds())
    assert '<section id="rounds">' in page
    assert page.count("<svg") == render_html(realistic_run()).count("<svg") + 2
    assert activity_figure(realistic_run()) is None
    assert groups_figure(realistic_run()) is None
    assert '<section id="rounds">' not in render_html(realistic_run())


def test_activity_names_its_lines_and_groups_their_counts() -> None:
    run = with_rounds()
    activity, groups = activity_figure(run), groups_figure(run)
    assert activity is not None
    assert groups is not None
    for name in ("on ", "cost 45 %", "settled ", "exploring 5 %", "original", "trained"):
        assert name in activity
    for group_id, on in run.rounds[-1].num_on.items():
        assert group_id in groups
        assert f">{on} / " in groups


def test_the_convergence_rate_is_the_mean_change_over_four_rounds() -> None:
    run = with_rounds(6)
    qualities = [90.0, 94.0, 95.0, 96.0, 98.0, 98.0]
    rounds = tuple(p.model_copy(update={"quality": q}) for p, q in zip(run.rounds, qualities, strict=True))
    # by hand: 0, 4 / 1, 5 / 2, 6 / 3, 8 / 4, 4 / 4
    assert slopes(rounds) == pytest.approx([0.0, 4.0, 2.5, 2.0, 2.0, 1.0])


def test_a_single_round_is_drawn() -> None:
    run = with_rounds(1)
    assert activity_figure(run) is not None
    assert groups_figure(run) is not None
