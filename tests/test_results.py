import json
import re

import pandas as pd
import pytest

from tests.fabricated import fabricate, write_result
from vit_patch_env.experiments.compare.results import FULL, check_run, read_comparison
from vit_patch_env.experiments.compare.run_result import complete_env, read_run
from vit_patch_env.experiments.run_folder.folder import RunFolder

METHODS = ("simple_vit", "agentvit")
FLOPS = {"budget": "flops"}


def test_a_run_is_read_as_it_was_written(tmp_path):
    folder = fabricate(tmp_path / "c", methods=METHODS, seeds=(4,), epochs=3, side=4)
    run = read_comparison(folder).runs["agentvit", 4]
    metrics = pd.read_csv(run.path / "metrics.csv")
    assert (run.method, run.seed, run.diverged) == ("agentvit", 4, False)
    assert run.epoch_seconds[-1] == pytest.approx(run.seconds)
    assert run.seconds == pytest.approx(metrics[["train_seconds", "agent_seconds"]].sum().sum())
    assert list(run.val_accuracy) == list(metrics["val_accuracy"])
    assert run.n_selected.shape == (36,)
    assert run.selected.shape == (3, 16)


def test_runs_may_differ_in_the_arguments_of_a_method(tmp_path):
    env = {"epochs": 2, "dim": 96, "keep_rate": 0.7, "data_dir": "elsewhere", "sizes": (1, 2)}
    run = tmp_path / "evit__3"
    run.mkdir()
    made = {"epochs": 2, "dim": 96, "model": "evit", "n_patches_desired": 9, "sizes": [1, 2]}
    (run / "config.json").write_text(json.dumps({"options": {"env": made, "seed": 3}}))
    check_run(run, env)
    with pytest.raises(ValueError, match=r"evit__3: another configuration: dim is 96, expected 8$"):
        check_run(run, {**env, "dim": 8})


def test_files_from_before_budgets_are_read(tmp_path):
    folder = fabricate(tmp_path / "c", methods=METHODS, epochs=4, env={"dim": 32})
    before = read_comparison(folder)
    for path in folder.glob("runs/*/metrics.csv"):
        pd.read_csv(path).drop(columns="progress").to_csv(path, index=False)
    for path in (*folder.glob("runs/*/config.json"), folder / "compare.json"):
        content = json.loads(path.read_text())
        env = content.get("options", content)["env"]
        del env["budget"], env["seconds"]
        path.write_text(json.dumps(content))
    for path in folder.glob("runs/*/result.json"):
        write_result(path.parent, json.loads(path.read_text()))
    comparison = read_comparison(folder)
    assert len(comparison.runs) == 6
    assert comparison.budget == "epochs"
    for name, run in comparison.runs.items():
        assert list(run.progress) == list(before.runs[name].progress) == [0.25, 0.5, 0.75, 1]
    # Such a comparison can be extended: new arguments have defaults that change nothing.
    check_run(folder / "runs" / "agentvit__1", complete_env(comparison.env))
    with pytest.raises(ValueError, match="another configuration: budget is epochs, expected flops"):
        check_run(folder / "runs" / "agentvit__1", {**comparison.env, "budget": "flops"})


def test_a_run_that_did_not_use_up_its_budget_is_refused(tmp_path):
    folder = fabricate(tmp_path / "c", methods=METHODS, seeds=(1,), epochs=4, env=FLOPS)
    run = folder / "runs" / "agentvit__1"
    assert len(read_run(run).epochs) == 8
    metrics = pd.read_csv(run / "metrics.csv")
    metrics.head(4).to_csv(run / "metrics.csv", index=False)
    write_result(run, json.loads((run / "result.json").read_text()))
    with pytest.raises(ValueError, match=r"expected a budget used up in metrics.csv, got 56% of"):
        read_run(run)
    metrics.drop(columns="progress").to_csv(run / "metrics.csv", index=False)
    write_result(run, json.loads((run / "result.json").read_text()))
    with pytest.raises(ValueError, match=r"expected progress in metrics.csv"):
        read_run(run)


def test_a_timed_budget_must_be_the_seconds_of_the_run_on_all_patches(tmp_path):
    env = {"budget": "seconds"}
    folder = fabricate(tmp_path / "c", methods=METHODS, seeds=(1, 2), epochs=2, env=env)
    assert len(read_comparison(folder).runs) == 4
    for seed, seconds in ((1, 61.5), (2, None)):
        path = folder / "runs" / f"{FULL}__{seed}" / "result.json"
        if seconds is None:
            path.unlink()
        else:
            result = json.loads(path.read_text()) | {"train_seconds": seconds}
            path.write_text(json.dumps(result))
    comparison = read_comparison(folder)
    assert list(comparison.runs) == [(FULL, 1)]
    other, missing = comparison.problems
    assert "agentvit__1: another configuration: seconds is 60.0, expected 61.5" in other
    assert f"expected a finished run with result.json, got {path.parent}" in missing


@pytest.mark.parametrize(
    ("text", "progress"),
    [
        ("", 0),
        ("epoch,prog", 0),
        ("epoch,progress\n", 0),
        ("epoch,progress\n1,0.25\n2,0.5", 0.25),
        ("epoch,progress\n1,0.25\n2,0.5\n", 0.5),
        ("epoch\n1\n", 0),
        ("epoch,progress\n1\n", 0),
    ],
)
def test_progress_is_read_from_the_last_complete_line(tmp_path, text, progress):
    assert RunFolder(tmp_path).progress() == 0
    (tmp_path / "metrics.csv").write_text(text)
    assert RunFolder(tmp_path).progress() == progress


def test_the_group_of_older_files_is_baseline(tmp_path):
    folder = fabricate(tmp_path / "c", methods=("tome", "random", "pss"), seeds=(0,), epochs=2)
    path = folder / "compare.json"
    content = json.loads(path.read_text())
    content["groups"] |= {"tome": "rival", "pss": "new"}
    path.write_text(json.dumps(content))
    comparison = read_comparison(folder)
    groups = [comparison.group(name) for name in ("tome", "random", "pss", "unknown")]
    assert groups == ["baseline", "rule", "new", "baseline"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [0, "1"]}, "seeds.1 in compare.json: Input should be a valid integer, got '1'"),
        ({"groups": ["a"]}, "groups in compare.json: Input should be a valid dictionary"),
        ({"methods": ["../vit"]}, "expected names of methods, got '../vit'"),
        ({"env": {"budget": "flops"}, "images": 3}, "images in compare.json: Input should be"),
    ],
)
def test_a_damaged_comparison_is_refused_in_one_line(tmp_path, changes, message):
    folder = fabricate(tmp_path / "c", methods=METHODS, seeds=(0,), epochs=2)
    path = folder / "compare.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=rf"^\S+: damaged: {re.escape(message)}.*$") as caught:
        read_comparison(folder)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_result_is_not_finished(tmp_path):
    folder = fabricate(tmp_path / "c", methods=METHODS, epochs=2)
    run = folder / "runs" / "agentvit__1"
    (run / "result.json").unlink()
    assert not RunFolder(run).is_finished
    assert read_comparison(folder).unfinished == ("agentvit__1",)
    with pytest.raises(ValueError, match="agentvit__1"):
        read_run(run)


def damage_json(run):
    (run / "result.json").write_text("{")


def damage_table(run):
    with (run / "metrics.csv").open("a") as file:
        file.write("1,2,3\n")


def remove_table(run):
    (run / "selected.csv").unlink()


def remove_field(run):
    result = json.loads((run / "result.json").read_text())
    del result["test"]["all_patches"]["f1"]
    write_result(run, result)


def lose_epoch(run):
    pd.read_csv(run / "metrics.csv").head(2).to_csv(run / "metrics.csv", index=False)
    write_result(run, json.loads((run / "result.json").read_text()))


def change_type(run):
    result = json.loads((run / "result.json").read_text())
    result["test"]["agent_patches"]["accuracy"] = "half"
    write_result(run, result)


def remove_config(run):
    (run / "config.json").unlink()


def change_config(run):
    config = json.loads((run / "config.json").read_text())
    config["options"]["env"] |= {"dim": 7, "keep_rate": 0.5, "device": "cuda", "data_dir": "x"}
    (run / "config.json").write_text(json.dumps(config))


def change_seed(run):
    config = json.loads((run / "config.json").read_text())
    config["options"]["seed"] = 9
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_json, "damaged: result.json cannot be read"),
        (damage_table, "damaged: metrics.csv differs from its checksum"),
        (remove_table, "damaged: selected.csv cannot be read"),
        (remove_field, "damaged: expected f1 in result.json"),
        (
            change_type,
            "damaged: test.agent_patches.accuracy in result.json: Input should be a valid number, "
            "got 'half'",
        ),
        (lose_epoch, "damaged: expected 3 epochs in metrics.csv, got 2"),
        (remove_config, "damaged: config.json cannot be read"),
        (change_config, "another configuration: dim is 7, expected 96"),
        (change_seed, "another configuration: seed is 9, expected 1"),
    ],
)
def test_a_damaged_or_different_run_is_named_and_excluded(tmp_path, damage, message):
    folder = fabricate(tmp_path / "c", methods=METHODS, epochs=3)
    run = folder / "runs" / "agentvit__1"
    damage(run)
    assert RunFolder(run).is_finished
    comparison = read_comparison(folder)
    assert ("agentvit", 1) not in comparison.runs
    assert len(comparison.runs) == 3 * len(METHODS) - 1
    (problem,) = comparison.problems
    assert problem.startswith(f"{run}: {message}")
    assert "\n" not in problem
