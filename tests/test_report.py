import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.fabricated import METHODS, fabricate, write_result
from vit_patch_env.experiments.compare.results import read_comparison
from vit_patch_env.experiments.options.commands import ReportOptions
from vit_patch_env.experiments.report.curves import (
    learning_curve,
    selected_share,
    selection_curve,
)
from vit_patch_env.experiments.report.findings import against, best_faster_method, findings
from vit_patch_env.experiments.report.metrics import ComparisonMetrics
from vit_patch_env.experiments.report.paper_comparison import against_paper, claim, reasons
from vit_patch_env.experiments.report.plot_style import STYLE
from vit_patch_env.experiments.report.plots import Plot
from vit_patch_env.experiments.report.report import BEGIN, END, Report
from vit_patch_env.experiments.report.settings import settings, warnings
from vit_patch_env.experiments.report.tables import (
    cost_table,
    paired_table,
    readme_table,
    table2,
    time_table,
)

FOUR = ("vit", "simple_vit", "ats_vit", "agentvit", "random_matched")
# Where the budget is not epochs.
AGENTS, FIXED = ("agentvit", "bandit"), ("random", "centre", "pss", "pss_linear")
EQUAL = ("simple_vit", "tome", *AGENTS, *FIXED)
FLOPS, SECONDS = {"budget": "flops"}, {"budget": "seconds"}


def run_report(folder, readme=None):
    """Write a report.

    Returns:
        What it printed.
    """
    console = Console(file=io.StringIO(), width=120)
    report = Report(
        ReportOptions(folder=str(folder), readme=None if readme is None else str(readme)), console
    )
    report.prepare()
    report.run()
    return console.file.getvalue()


def metrics_of(folder, **kwargs):
    return ComparisonMetrics(read_comparison(fabricate(folder, **kwargs)))


def cells(table, title):
    return next(row.cells for block in table.blocks for row in block.rows if row.title == title)


@pytest.fixture(scope="module", autouse=True)
def coarse_plots():
    """Plots of few pixels take a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "figure.dpi", 30)
        yield


@pytest.fixture
def quick_plots(monkeypatch):
    """A single plot, without plotting."""
    plot = Plot("accuracy_over_seconds", "Accuracy", "A caption.", b"png")
    monkeypatch.setattr(
        "vit_patch_env.experiments.report.report.make_plots", lambda metrics: [plot]
    )


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = fabricate(tmp_path_factory.mktemp("full") / "all", epochs=6)
    run_report(folder)
    return folder


def test_a_report_is_complete(full):
    page, markdown = (full / "report.html").read_text(), (full / "report.md").read_text()
    for text in (page, markdown):
        for title, *_ in METHODS.values():
            assert title in text
        assert "paper 3,730" in text
        assert "vit-patch compare --preset table2-cpu" in text
    plots = re.findall(r"\((plots/.*?)\)", markdown)
    assert len(plots) == page.count("data:image/png;base64,") == 6
    assert all((full / plot).is_file() for plot in plots)


def test_a_page_works_offline_and_escapes_text(full):
    page = (full / "report.html").read_text()
    assert not re.findall(r"https?://|<script|<link", page)
    assert "Author &amp; al. &lt;tome&gt; 2022" in page


@pytest.mark.long
def test_the_same_files_give_the_same_report(tmp_path):
    folder = fabricate(tmp_path / "c", methods=("simple_vit", "agentvit"), epochs=2)

    def content():
        run_report(folder)
        files = [*folder.glob("report.*"), *folder.glob("plots/*")]
        return {path.name: path.read_bytes() for path in files}

    before = content()
    assert len(before) == 8
    assert content() == before


def test_table_2_has_means_over_seeds_with_intervals_and_the_papers_values(full):
    table = table2(ComparisonMetrics(read_comparison(full)))
    results = [
        json.loads((full / "runs" / f"agentvit__{seed}" / "result.json").read_text())
        for seed in (0, 1, 2)
    ]
    seconds = sum(r["train_seconds"] + r["agent_seconds"] for r in results) / 3
    accuracies = sorted(r["test"]["all_patches"]["accuracy"] for r in results)
    seeds, time, accuracy, *_ = cells(table, "AgentViT")
    assert seeds.text == "3"
    assert (time.text, time.remark) == (f"{seconds:.0f}", "paper 3,730")
    assert accuracy.text == f"{sum(accuracies) / 3:.4f}"
    assert accuracy.note == f"[{accuracies[0]:.4f}, {accuracies[2]:.4f}]"
    assert [block.title for block in table.blocks] == [
        "The paper's Table 2", "More agents", "Our agents", "Fixed rules", "Baselines",
    ]  # fmt: skip
    assert [row.title for row in table.blocks[0].rows] == [METHODS[name][0] for name in FOUR[:4]]


def test_costs_are_relative_to_all_patches(full):
    metrics = ComparisonMetrics(read_comparison(full))
    time, patches, flops, relative, share, memory, own = cells(cost_table(metrics), "AgentViT")
    assert time == cells(table2(metrics), "AgentViT")[1]._replace(remark="")
    assert (flops.text, relative.text, share.text, memory.text) == ("10.8", "60%", "5.0%", "0.60")
    assert own.note
    assert re.fullmatch(r"on \d+\.?\d* patches", own.remark)
    assert float(patches.text) == pytest.approx(0.6 * 64, abs=1)


def test_seeds_that_do_not_reach_an_accuracy_are_counted(tmp_path):
    metrics = metrics_of(tmp_path / "c", methods=FOUR, accuracy={"agentvit": 0.15})
    table = time_table(metrics, metrics.main_cost)
    assert [cell.text for cell in cells(table, "AgentViT")][-1] == "not reached"
    assert any("of 3 reached it" in cell.note for cell in cells(table, "SimpleViT64"))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("accuracy", "seconds", "outcome", "to_full", "to_control"),
    [
        (0.58, 0.7, "is reproduced here", "more accurate", "more accurate"),
        (0.48, 0.7, "not reproduced here: it is faster, but it is less", "less", "less accurate"),
        (0.58, 1.2, "not reproduced here: it is slower, but it is more", "more", "more accurate"),
        (0.48, 1.2, "not reproduced here: it is slower, and it is less", "less", "less accurate"),
        (
            0.53,
            0.7,
            "but its accuracy does not differ significantly",
            "no significant difference (the 95 % interval contains 0)",
            "no significant difference (the 95 % interval contains 0)",
        ),
    ],
)
def test_sentences_follow_the_metrics(tmp_path, accuracy, seconds, outcome, to_full, to_control):
    metrics = metrics_of(
        tmp_path / "c",
        methods=FOUR,
        seeds=range(10),
        noise=0.006,
        accuracy={"agentvit": accuracy, "simple_vit": 0.53, "random_matched": 0.53},
        seconds={"agentvit": seconds},
    )
    assert outcome in claim(metrics)
    assert to_full in against(metrics, "agentvit", "simple_vit")
    assert to_control in against(metrics, "agentvit", "random_matched")
    wins = accuracy == 0.58 and seconds < 1
    assert ("SimpleViT64, AgentViT has" in best_faster_method(metrics)) == wins
    front = [s for s in findings(metrics) if "Pareto front" in s]
    assert len(front) == 2
    assert ("AgentViT is not on it" in front[1]) == (accuracy != 0.58)


def test_a_difference_whose_interval_contains_0_is_not_significant(tmp_path):
    equal = {"agentvit": 0.53, "simple_vit": 0.53, "random_matched": 0.4}
    metrics = metrics_of(tmp_path / "c", methods=FOUR, accuracy=equal, noise=0.008)
    accuracy, time, flops, *control = cells(paired_table(metrics), "AgentViT")
    assert (accuracy.remark, time.remark, flops.remark) == ("not significant", "", "")
    assert [cell.remark for cell in control] == ["", "", "equal"]


@pytest.mark.long
def test_few_seeds_are_warned_about_and_enough_are_not(tmp_path):
    few = " ".join(findings(metrics_of(tmp_path / "few", methods=FOUR)))
    assert "With 3 seeds" in few
    assert "Per seed, the accuracy differs by" in few
    enough = " ".join(findings(metrics_of(tmp_path / "enough", methods=FOUR, seeds=range(10))))
    assert "too narrow" not in enough
    assert "Per seed" not in enough


def test_with_one_seed_nothing_is_tested_for_significance(tmp_path, quick_plots):
    folder = fabricate(tmp_path / "c", methods=FOUR, seeds=(0,), epochs=2, side=4)
    run_report(folder)
    text = (folder / "report.md").read_text()
    assert "With 1 seed there is no interval" in text
    assert "not tested, as there is one seed" in text
    assert "One paired seed is not enough to test this here" in text
    assert "(one seed)" in text
    assert "[" not in text.partition("## Table 2")[2].partition("## Accuracy")[0]


def test_a_report_without_references_names_them(tmp_path):
    folder = fabricate(tmp_path / "c", methods=("vit", "agentvit", "random"), seeds=(0,), epochs=2)
    run_report(folder)
    text = (folder / "report.md").read_text()
    assert "there is no finished run of simple_vit" in text
    assert "there is no finished run of random_matched" in text
    assert "## Paired differences" not in text
    control_only = metrics_of(tmp_path / "d", methods=("agentvit", "random_matched"), epochs=2)
    assert "no finished run of simple_vit" in paired_table(control_only).caption


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    """A comparison at equal FLOPs, reported on."""
    folder = tmp_path_factory.mktemp("equal") / "flops"
    fabricate(folder, methods=EQUAL, epochs=4, env=FLOPS)
    run_report(folder)
    return folder


@pytest.mark.long
def test_a_report_at_equal_flops_has_the_number_of_epochs(equal):
    metrics = ComparisonMetrics(read_comparison(equal))
    budget = "the FLOPs of 4 epochs on all patches: 12 TFLOPs"
    assert settings(metrics.comparison)["Budget"] == f"each run may use {budget}"
    assert findings(metrics)[0] == f"Every run had the same budget: {budget}."
    assert budget in " ".join(reasons(metrics.comparison))
    table = cost_table(metrics)
    epochs = {
        name: float(cells(table, METHODS[name][0])[table.columns.index("Epochs")].text)
        for name in EQUAL
    }
    assert epochs["simple_vit"] == 4
    assert epochs["pss"] == pytest.approx(4 / 0.7, abs=0.1)
    assert epochs["bandit"] == pytest.approx(4 / 0.5 + 5 / 12, abs=0.1)  # 5 steps a seed more
    to_accuracy = [time_table(metrics, cost) for cost in metrics.curve_costs]
    titles = [f"{units} to a validation accuracy" for units in ("TFLOPs", "Seconds")]
    assert [table.title for table in to_accuracy] == titles
    assert cells(to_accuracy[0], "SimpleViT64")[-1].text in ("12.0", "not reached")
    text = (equal / "report.md").read_text()
    assert "Our agents" in text
    assert "control" not in text
    assert "reproduced" not in text
    names = re.findall(r"\(plots/(.*?)\.png\)", text)
    assert names == [
        "accuracy_over_run", "accuracy_over_seconds", "patches_per_step", "selected_patches",
        "flops_to_accuracy",
    ]  # fmt: skip


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("env", "budget", "columns"),
    [
        (FLOPS, "the FLOPs of 2 epochs on all patches: 6 TFLOPs", ["Accuracy (points)", "Time"]),
        (
            SECONDS,
            "the training time of SimpleViT64 with the same seed for 2 epochs: 60 s on average",
            ["Accuracy (points)", "FLOPs"],
        ),
        (SECONDS | {"seconds": 60.0}, "each run may use 60 s", ["Accuracy (points)", "FLOPs"]),
    ],
)
def test_pairs_are_with_all_patches_and_the_best_fixed_rule(tmp_path, env, budget, columns):
    accuracy = {"random": 0.51, "pss": 0.53, "tome": 0.6}
    folder = tmp_path / "c"
    metrics = metrics_of(folder, methods=EQUAL, epochs=2, env=env, accuracy=accuracy)
    assert budget in settings(metrics.comparison)["Budget"]
    table = paired_table(metrics)
    for column, what in zip(table.columns, columns * 2, strict=True):
        assert column.startswith(what)
    assert table.columns[0].endswith("vs. SimpleViT64")
    assert table.columns[-1].endswith("vs. the best fixed rule, PSS, cyclic")
    assert [cell.text for cell in cells(table, "PSS, cyclic")[2:]] == ["-", "-"]
    assert float(cells(table, "Bandit")[2].text) < 0
    assert readme_table(metrics).columns[-1] == "Accuracy vs. PSS, cyclic (points)"
    # A rule with fewer seeds is no reference.
    (folder / "runs" / "pss__1" / "result.json").unlink()
    table = paired_table(ComparisonMetrics(read_comparison(folder)))
    assert table.columns[-1].endswith("best fixed rule, PSS, linear")


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (0.58, "so Bandit is more accurate"),
        (0.53, "no significant difference (the 95 % interval contains 0)"),
        (0.46, "so Bandit is less accurate"),
    ],
)
def test_the_best_agent_is_compared_with_the_best_rule_and_all_patches(tmp_path, accuracy, words):
    final = {"simple_vit": 0.53, "pss": 0.53, "random": 0.5, "agentvit": 0.4, "bandit": accuracy}
    metrics = metrics_of(
        tmp_path / "c", methods=EQUAL, seeds=range(5), noise=0.006, epochs=2, env=FLOPS,
        accuracy=final,
    )  # fmt: skip
    _, best, rule, full, paper, others, *_ = findings(metrics)
    assert re.search(
        r"Bandit \(0\.\d+\) of 2 agents; PSS, cyclic \(0\.\d+\) of 4 fixed rules", best
    )
    for sentence, reference in ((rule, "PSS, cyclic"), (full, "SimpleViT64")):
        assert sentence.startswith(f"Bandit against {reference}, over 5 paired seeds: ")
        assert words in sentence
        assert "training time" in sentence
        assert "FLOPs" not in sentence
    assert paper.startswith("AgentViT against SimpleViT64")
    assert "other fixed rules" in others
    assert "PSS, cyclic" not in others


def test_without_agents_or_rules_there_are_no_sentences_on_them(tmp_path):
    methods = ("simple_vit", "tome")
    metrics = metrics_of(tmp_path / "c", methods=methods, epochs=2, env=FLOPS)
    assert "agent" not in " ".join(findings(metrics)).lower()
    assert "no finished run of a fixed rule" in paired_table(metrics).caption
    assert readme_table(metrics).columns[-1] == "Accuracy vs. SimpleViT64 (points)"


@pytest.mark.long
def test_runs_of_different_length_are_averaged_at_equal_shares_of_the_budget(equal):
    metrics = ComparisonMetrics(read_comparison(equal))
    runs = metrics.comparison.valid_runs("bandit")
    assert {len(run.epochs) for run in runs} == {8, 9}
    assert {run.metric("n_steps") for run in runs} == {96, 101, 106}
    curve = learning_curve(metrics, "bandit")
    assert len(curve.cost) == len(curve.accuracy) == max(len(run.epochs) for run in runs) - 1
    assert list(curve.cost) == sorted(curve.cost)
    assert curve.cost[-1] == pytest.approx(12e12)
    assert curve.accuracy[-1] == pytest.approx(np.mean([run.val_accuracy[-1] for run in runs]))
    shares, patches = selection_curve(metrics, "pss_linear")
    assert shares[0] == 0
    assert shares[-1] < 1
    assert patches == pytest.approx(64 * (0.3 + 0.7 * shares), abs=1.5)
    # An incomplete epoch is weighted by its number of steps.
    (share,) = {round(value, 9) for value in selected_share(metrics, "pss")}
    picked = [run.n_selected.mean() for run in metrics.comparison.valid_runs("pss")]
    assert 64 * share == pytest.approx(np.mean(picked))


def test_the_readmes_section_has_the_budget(tmp_path, quick_plots):
    folder = fabricate(tmp_path / "c", methods=EQUAL, seeds=(0,), epochs=2, env=FLOPS)
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}{END}")
    run_report(folder, readme)
    assert "each run may use the FLOPs of 2 epochs" in " ".join(readme.read_text().split())
    assert "plots/accuracy_over_seconds.png" in readme.read_text()


def test_the_committed_report_is_that_of_its_files(tmp_path, quick_plots):
    committed = Path(__file__).parent.parent / "results" / "table2-cpu"
    (tmp_path / "compare.json").write_bytes((committed / "compare.json").read_bytes())
    (tmp_path / "runs").symlink_to(committed / "runs")
    with pytest.warns(UserWarning, match=r"without a checksum of config\.json"):
        run_report(tmp_path)
    texts = [(folder / "report.md").read_text() for folder in (tmp_path, committed)]
    tables = [text.partition("\n![")[0].rpartition("\n## ")[0] for text in texts]
    assert tables[0] == tables[1]


@pytest.mark.long
def test_diverged_runs_are_named_and_in_no_mean(tmp_path):
    names = ("agentvit__0", *(f"ats_vit__{seed}" for seed in range(3)))
    folder = fabricate(tmp_path / "c", methods=FOUR, diverged=names)
    run_report(folder)
    metrics = ComparisonMetrics(read_comparison(folder))
    assert all(name in " ".join(findings(metrics)) for name in names)
    assert cells(table2(metrics), "AgentViT")[0] == ("2 of 3", "(1 diverged)", "")
    assert [cell.text for cell in cells(table2(metrics), "ATSViT")] == ["0 of 3"] + ["-"] * 5


def test_differences_from_the_papers_setting_come_from_the_settings(tmp_path):
    paper = {
        "dataset": "cifar10", "train_fraction": 1.0, "dim": 128, "depth": 6, "heads": 16,
        "mlp_dim": 512, "dim_head": 64,
    }  # fmt: skip
    (same,) = reasons(read_comparison(fabricate(tmp_path / "a", methods=FOUR, env=paper)))
    (other,) = reasons(read_comparison(fabricate(tmp_path / "b", methods=FOUR)))
    for word in ("JPEG", "model:", "20% of the training images"):
        assert word in other
        assert word not in same
    assert "Tesla K80" in same
    assert "120 training steps" in same


OTHER_OPTIONS = {
    "augment": "randaugment", "flip": False, "random_erasing": 0.25, "mixup": 0.2, "cutmix": 1.0,
    "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "resize": "pad", "images": "stream",
    "skip_corrupt": True, "weight_decay": 0.05,
}  # fmt: skip


@pytest.mark.long
def test_settings_name_every_option_that_is_not_the_default(tmp_path):
    default = read_comparison(fabricate(tmp_path / "a", methods=FOUR))
    assert "Other options" not in settings(default)
    folder = fabricate(tmp_path / "b", methods=FOUR, env=OTHER_OPTIONS)
    comparison = read_comparison(folder)
    assert settings(comparison)["Other options"] == (
        "skip corrupt True, resize pad, images stream, weight decay 0.05, augment randaugment, "
        "flip False, random erasing 0.25, mixup 0.2, cutmix 1.0, mean 0.5 0.4 0.3, "
        "std 0.2 0.2 0.1"
    )
    (sentence,) = reasons(comparison)
    assert "augment randaugment (preset table2: crop-flip), flip False" in sentence
    assert "mixup 0.2 (preset table2: 0.0)" in sentence
    assert "recipe" not in reasons(default)[0]
    run_report(folder)
    for name in ("report.md", "report.html"):
        assert settings(comparison)["Other options"] in (folder / name).read_text()


def test_the_order_of_the_papers_methods_is_compared(tmp_path):
    as_there = {"vit": 0.6, "agentvit": 0.55, "simple_vit": 0.5, "ats_vit": 0.4}
    sentences = against_paper(metrics_of(tmp_path / "c", methods=FOUR, accuracy=as_there))
    assert sentences[1].endswith("as in the paper.")
    assert "in the paper AgentViT, SimpleViT64, ATSViT" in sentences[2]


def test_problems_and_unfinished_runs_are_printed_and_written(tmp_path, quick_plots):
    folder = fabricate(tmp_path / "c", methods=FOUR, epochs=2)
    (folder / "runs" / "vit__0" / "result.json").write_text("{")
    (folder / "runs" / "vit__1" / "result.json").unlink()
    shutil.rmtree(folder / "runs" / "vit__2")
    shutil.copytree(folder / "runs" / "agentvit__0", folder / "runs" / "agentvit__7")
    printed = run_report(folder)
    for text in (printed, (folder / "report.md").read_text(), (folder / "report.html").read_text()):
        assert "vit__0: damaged" in text
        assert "Not finished: seeds 1, 2 of vit." in text
        assert "agentvit__7: not in compare.json" in text


def test_runs_of_two_machines_are_warned_about(tmp_path):
    folder = fabricate(tmp_path / "c", methods=FOUR, epochs=2)
    run = folder / "runs" / "vit__0"
    write_result(run, {**json.loads((run / "result.json").read_text()), "machine": "a laptop"})
    assert "more than one machine" in warnings(read_comparison(folder))[0]


def test_a_folder_without_a_finished_run_or_comparison_is_refused(tmp_path):
    folder = fabricate(tmp_path / "c", methods=("vit",), seeds=(0,), epochs=2)
    (folder / "runs" / "vit__0" / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"at least one finished run in .*, got none; .*damaged"):
        run_report(folder)
    (folder / "runs" / "vit__0" / "result.json").unlink()
    with pytest.raises(ValueError, match=r"at least one finished run in .*, got none$"):
        run_report(folder)
    with pytest.raises(ValueError, match=r"compare wrote, got .*: there is no compare\.json"):
        run_report(tmp_path)
    (folder / "compare.json").write_text('{"methods": []}')
    with pytest.raises(ValueError, match="expected seeds, env in compare"):
        run_report(folder)


def test_a_readmes_section_is_replaced_and_nothing_else(tmp_path, quick_plots):
    folder = fabricate(tmp_path / "results" / "c", methods=FOUR, epochs=2)
    before, after = "# Title\r\n\n", "\n\ttail without newline \u00e9"
    readme = tmp_path / "README.md"
    readme.write_bytes(f"{before}{BEGIN}\nto be replaced\n{END}{after}".encode())
    run_report(folder, readme)
    written = readme.read_bytes()
    text = written.decode()
    assert text.startswith(before + BEGIN)
    assert text.endswith(END + after)
    section = text[len(before) : -len(after)]
    assert "to be replaced" not in section
    for path in re.findall(r"\]\((.*?)\)", section):
        assert (readme.parent / path).is_file()
    for words in ("vit-patch report results/c --readme README.md", "AMD EPYC", "seeds 0, 1, 2"):
        assert words in section
    run_report(folder, readme)
    assert readme.read_bytes() == written


def test_the_command_of_a_section_runs_from_the_folder_of_both(tmp_path, quick_plots):
    folder = fabricate(tmp_path / "results" / "c", methods=("vit",), epochs=2)
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"{BEGIN}\n{END}\n")
    run_report(folder, page)
    assert "\nvit-patch report results/c --readme docs/page.md\n" in page.read_text()
    assert "(../results/c/report.md)" in page.read_text()


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_one_pair_of_markers_is_refused_before_anything_is_written(tmp_path, text):
    folder = fabricate(tmp_path / "c", methods=("vit",), epochs=2)
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=f"expected {BEGIN} and after it {END}"):
        run_report(folder, readme)
    with pytest.raises(ValueError, match="readme must be a file"):
        run_report(folder, Path("nowhere.md"))
    assert not (folder / "report.md").exists()
