"""Runs that other work slowed down, and what files of older versions do not say."""

import json
import shlex
from itertools import product

import numpy as np
import pandas as pd
import pytest

from tests.fabricated import METHODS, fabricate, write_result
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.report import plots
from vit_patch_env.experiments.report.curves import learning_curve
from vit_patch_env.experiments.report.disturbance import disturbance_notes
from vit_patch_env.experiments.report.findings import findings
from vit_patch_env.experiments.report.heat_maps import selected_patches
from vit_patch_env.experiments.report.metrics import GROUPS, ComparisonMetrics
from vit_patch_env.experiments.report.tables import cost_table, paired_table, table2, time_table
from vit_patch_env.experiments.report.words import command_lines
from vit_patch_env.experiments.run_folder.slow_steps import slow_share
from vit_patch_env.experiments.run_folder.tables import step_table

METHODS_HERE = ("simple_vit", "agentvit", "random", "pss", "pss_linear")


def edit_run(folder, name, **values):
    run = folder / "runs" / name
    write_result(run, {**json.loads((run / "result.json").read_text()), **values})


def metrics_of(folder):
    return ComparisonMetrics(read_comparison(folder))


def cells(table, method):
    rows = [row for block in table.blocks for row in block.rows]
    return next(row.cells for row in rows if row.title == METHODS[method][0])


def seconds_of(folder, name):
    result = json.loads((folder / "runs" / name / "result.json").read_text())
    return result["train_seconds"] + result["agent_seconds"]


@pytest.fixture
def folder(tmp_path):
    return fabricate(tmp_path / "c", methods=METHODS_HERE, epochs=2)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"waiting_share": 0.4}, "it waited for a CPU for 40% of its time"),
        ({"slow_share": 0.2}, "slow steps took 20% of its time"),
        ({"train_seconds": 90.0, "agent_seconds": 0.0}, "times as slow as its method's fastest"),
    ],
)
def test_the_time_of_a_disturbed_run_is_marked_and_in_no_mean(folder, changed, reason):
    undisturbed = metrics_of(folder)
    assert not disturbance_notes(undisturbed.comparison, undisturbed.disturbances)
    edit_run(folder, "random__1", **changed)
    metrics = metrics_of(folder)
    (note,) = disturbance_notes(metrics.comparison, metrics.disturbances)
    assert "random__1" in note
    assert reason in note
    time = cells(table2(metrics), "random")[1]
    expected = np.mean([seconds_of(folder, f"random__{seed}") for seed in (0, 2)])
    assert (time.text, time.remark) == (f"{expected:.1f}", "without 1 disturbed")
    assert metrics.points("seconds")["random"][0] == pytest.approx(expected)
    assert learning_curve(metrics, "random").cost[-1] == pytest.approx(expected, rel=0.1)
    # Nothing else changes.
    assert metrics.values("random", "accuracy") == undisturbed.values("random", "accuracy")
    assert cells(table2(metrics), "random")[2:] == cells(table2(undisturbed), "random")[2:]
    assert (
        cells(paired_table(metrics), "random")[0] == cells(paired_table(undisturbed), "random")[0]
    )


def test_a_method_whose_runs_are_all_disturbed_is_on_no_front_over_time(folder):
    for seed in (0, 1, 2):
        edit_run(folder, f"random__{seed}", waiting_share=0.5)
    metrics = metrics_of(folder)
    time = cells(table2(metrics), "random")[1]
    expected = np.mean([seconds_of(folder, f"random__{seed}") for seed in (0, 1, 2)])
    assert (time.text, time.remark) == (f"{expected:.1f}", "disturbed")
    assert "random" not in metrics.points("seconds")
    assert "random" in metrics.points("flops")
    assert learning_curve(metrics, "random") is None
    over_time = next(text for text in findings(metrics) if "and training time" in text)
    assert METHODS["random"][0] not in over_time
    table = time_table(metrics, metrics.main_cost)
    assert {cell.text for cell in cells(table, "random")} == {"-"}


def test_a_group_whose_runs_are_all_disturbed_is_in_no_legend_over_time(folder, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plots, "png", lambda figure: figure)
    for waiting in (0.0, 0.5):
        for method, seed in product(("simple_vit", "agentvit"), (0, 1, 2)):
            edit_run(folder, f"{method}__{seed}", waiting_share=waiting)
        figures = {plot.name: plot.png for plot in plots.make_plots(metrics_of(folder))}
        legend = figures["accuracy_over_seconds"].axes[0].get_legend()
        drawn[waiting] = {text.get_text() for text in legend.get_texts()}
    assert drawn[0.0] - drawn[0.5] == {GROUPS["four"]}


def test_runs_with_other_numbers_of_patches_or_on_other_machines_are_not_disturbed(folder):
    slow = {"train_seconds": 90.0, "agent_seconds": 0.0}
    edit_run(folder, "agentvit__1", **slow, n_selected_mean=10.0)
    edit_run(folder, "random__1", **slow, machine="a laptop")
    assert not metrics_of(folder).disturbances.reasons


def test_older_runs_say_that_they_recorded_neither_disturbances_nor_own_patches(tmp_path):
    folder = fabricate(tmp_path / "c", methods=METHODS_HERE, epochs=2, older=True)
    metrics = metrics_of(folder)
    (note,) = disturbance_notes(metrics.comparison, metrics.disturbances)
    assert "was not recorded in 15 of 15 runs" in note
    table = cost_table(metrics)
    assert "15 of 15 runs are of an older version" in table.caption
    accuracy = {method: cells(table, method)[-1] for method in METHODS_HERE}
    # What these files have of a schedule is not of the end of its run.
    assert (accuracy["pss"].text, accuracy["pss"].remark) == ("-", "not recorded")
    on_all = cells(table2(metrics), "pss_linear")[2]
    assert accuracy["pss_linear"] == on_all._replace(remark="on 64 patches")
    assert accuracy["random"].remark == ""
    assert accuracy["random"].text < cells(table2(metrics), "random")[2].text


def test_steps_that_exceed_the_median_of_their_kind_are_slow():
    def share(seconds, n_selected=None, rates=None):
        n = len(seconds)
        return slow_share(step_table(n_selected or [8] * n, seconds, rates or [np.nan] * n))

    assert share([9.0, *[1.0] * 10]) == 0  # the first of a kind
    assert share([1.0, *[1.0] * 8, 3.0, 3.0]) == pytest.approx(4 / 14)
    assert share([1.0, 1.0, 1.0, 5.0, 5.0, 5.0], n_selected=[4, 4, 4, 64, 64, 64]) == 0
    assert share([1.0, 1.0, 1.0, 5.0, 5.0, 5.0], rates=[0.5] * 3 + [1.0] * 3) == 0
    assert share([1.0, 1.0, 1.0, 1.0, 5.0, 5.0]) == pytest.approx(8 / 13)
    assert share([1.0]) == 0
    updates = step_table([8] * 40, [0.1, 0.1, 0.1, 0.2] * 10, [np.nan] * 40)
    assert slow_share(updates, accumulate=4) == 0
    assert np.isnan(slow_share(pd.DataFrame({"n_selected": [4.0, 4.0]})))
    assert np.isnan(share([np.nan, 1.0]))


def test_the_first_step_after_a_resume_is_not_slow():
    seconds = [9.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0]
    steps = step_table([8] * 7, seconds, [np.nan] * 7)
    assert slow_share(steps) == pytest.approx(8 / 14)
    assert slow_share(steps, resumed_at=[4]) == 0
    assert slow_share(steps, resumed_at=[3]) == pytest.approx(8 / 13)
    assert slow_share(steps, resumed_at=[2, 4]) == 0


def test_each_heat_map_has_a_scale_of_its_own(folder):
    figure = selected_patches(metrics_of(folder))
    maps = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(maps) == 2  # without methods on all patches, and baselines
    for one in maps:
        low, high = one.get_clim()
        shares = one.get_array()
        assert low <= shares.min() <= shares.max() <= high
        assert high - low <= max(np.ptp(shares), 1e-3) + 1e-12
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels.count("share of the steps with the patch") == 2


@pytest.mark.parametrize(
    "command",
    [
        "vit-patch compare --preset smoke",
        f"vit-patch compare --methods {' '.join(METHODS)} --data-dir '/data/my images' --jobs 2",
        "vit-patch compare --data-dir '" + "long " * 40 + "'",
    ],
)
def test_a_command_is_wrapped_into_the_same_command(command):
    lines = command_lines(command)
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(command)
    assert all(len(line) <= 90 or len(shlex.split(line)) <= 3 for line in lines)
    assert all(line.endswith(" \\") for line in lines[:-1])


def test_an_option_stays_with_its_values():
    command = "vit-patch compare --preset budget-cpu --methods simple_vit agentvit --seeds 0 1 2"
    assert command_lines(command, width=80) == [
        "vit-patch compare --preset budget-cpu --methods simple_vit agentvit \\",
        "    --seeds 0 1 2",
    ]


@pytest.mark.parametrize("command", ["", "a 'b", "a  b", 'a "b"'])
def test_a_command_that_is_quoted_in_another_way_stays_as_it_is(command):
    assert command_lines(command) == ([command] if command else [])
