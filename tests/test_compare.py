import hashlib
import io
import json
import shlex
import signal
import time

import pytest
from rich.console import Console

from tests.conftest import TINY_OPTIONS
from tests.test_cli import refused, rows
from vit_patch_env.arguments import to_json
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.compare.comparison import Comparison
from vit_patch_env.experiments.compare.display import CompareDisplay
from vit_patch_env.experiments.compare.method_options import method_options
from vit_patch_env.experiments.compare.methods import METHODS
from vit_patch_env.experiments.compare.presets import PRESETS
from vit_patch_env.experiments.compare.results import read_comparison, read_run
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.options.flat import command
from vit_patch_env.experiments.run_folder.folder import RunFolder, checksum

RULES = ("agentvit", "random", "random_matched", "simple_vit")
SMALL = tuple(  # those for 16 patches
    name for name, method in METHODS.items() if (method.n_keep or 0) <= 16
)
SOME = (
    "simple_vit", "agentvit", "random", "random_matched", "random_per_image", "centre", "evit",
    "flip", "tome",
)  # fmt: skip
"""Of each group, with and without an agent to follow."""
ALL_OF_SMOKE = ["--seeds", "3", "--methods", *SOME]


def compare(out, *args):
    main(["compare", *TINY_OPTIONS, "--out", str(out), *args])


def numbers(out, run):
    return RunFolder(out / "runs" / run).read_steps()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke preset in its smallest form: methods once, two at a time."""
    out = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        compare(out / "all", *ALL_OF_SMOKE, "--jobs", "2")
    return out / "all"


@pytest.mark.long
def test_every_method_is_trained_as_train_would_do_it(tmp_path):
    smoke = tmp_path / "smoke"
    compare(smoke, "--seeds", "3", "--methods", *SMALL, "--jobs", "2")
    found = {path.name for path in (smoke / "runs").iterdir()}
    assert found == {f"{name}__3" for name in SMALL}
    comparison = json.loads((smoke / "compare.json").read_text())
    assert comparison["methods"] == list(SMALL)
    assert comparison["seeds"] == [3]
    for name in SMALL:
        run = read_run(smoke / "runs" / f"{name}__3")
        assert run.metric("flops") > 0
        assert len(run.epochs) == 2
    # The command in a run's folder makes the same run again.
    again = tmp_path / "again"
    config = json.loads((smoke / "runs" / "evit__3" / "config.json").read_text())
    main([*shlex.split(config["command"])[1:], "--out", str(again)])
    losses = [
        [float(row["val_loss"]) for row in rows(folder)]
        for folder in (again, smoke / "runs" / "evit__3")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # as many threads as there are


def test_runs_of_a_seed_share_weights_and_data(smoke):
    first_losses = {name: rows(smoke / "runs" / f"{name}__3")[0]["train_loss"] for name in SOME}
    assert first_losses["random"] != first_losses["simple_vit"]
    options = {name: RunFolder(smoke / "runs" / f"{name}__3").options for name in SOME}
    assert {one.seed for one in options.values()} == {3}
    changed = {"model", "keep_rate", "observation", "reward", "n_patches_desired"}
    shared = [
        {name: value for name, value in vars(one.env).items() if name not in changed}
        for one in options.values()
    ]
    assert all(one == shared[0] for one in shared)


def test_rules_keep_as_many_patches_as_the_agent(smoke):
    agent = numbers(smoke, "agentvit__3")
    assert len(set(agent)) > 1
    assert numbers(smoke, "random_matched__3") == agent
    mean = round(sum(agent) / len(agent))
    for name in ("random", "centre"):
        assert numbers(smoke, f"{name}__3") == [mean] * len(agent)
    options = RunFolder(smoke / "runs" / "random_per_image__3").options
    assert options.env.model == "patch_dropout"
    assert options.env.keep_rate == mean / 16


def test_fewer_tokens_are_fewer_flops(smoke):
    flops = {
        name: json.loads((smoke / "runs" / f"{name}__3" / "result.json").read_text())["flops"]
        for name in SOME
    }
    for name in ("random", "random_per_image", "flip", "centre"):
        assert flops[name] < flops["simple_vit"]
    # Same patches per step, but one also looks.
    assert flops["random_matched"] < flops["agentvit"]


def test_finished_runs_are_kept_and_others_trained(smoke, capsys):
    made = {path: path.stat().st_mtime_ns for path in smoke.glob("runs/*/result.json")}
    (smoke / "runs" / "flip__3" / "result.json").unlink()
    compare(smoke, *ALL_OF_SMOKE)
    shown = capsys.readouterr().out
    assert "flip__3 done" in shown
    assert "tome__3 done" not in shown
    for path, when in made.items():
        assert (path.stat().st_mtime_ns == when) == ("flip__3" not in str(path))


def test_the_control_is_refused_if_its_agent_was_trained_again(smoke, capsys):
    run = smoke / "runs" / "agentvit__3"
    saved = {name: (run / name).read_text() for name in ("steps.csv", "result.json")}
    try:
        changed = saved["steps.csv"].split()
        count, _, rest = changed[1].partition(",")
        changed[1] = f"{int(count) % 16 + 1},{rest}"
        (run / "steps.csv").write_text("\n".join(changed) + "\n")
        result = json.loads(saved["result.json"])
        result["files"]["steps.csv"] = checksum(run / "steps.csv")
        (run / "result.json").write_text(json.dumps(result))
        options = [*TINY_OPTIONS, "--out", str(smoke), *ALL_OF_SMOKE]
        line = refused(capsys, "compare", *options)
        assert "random_matched__3 keeps other numbers of patches than agentvit__3" in line
    finally:
        for name, text in saved.items():
            (run / name).write_text(text)


def test_other_images_are_not_mixed_in(smoke, capsys):
    path = smoke / "compare.json"
    text = path.read_text()
    try:
        path.write_text(text.replace('"train": 460', '"train": 461'))
        options = [*TINY_OPTIONS, "--out", str(smoke), *ALL_OF_SMOKE]
        assert "made on other images of synthetic" in refused(capsys, "compare", *options)
    finally:
        path.write_text(text)


@pytest.mark.long
def test_a_comparison_with_fewer_statistics_of_the_images_is_continued(smoke):
    path = smoke / "compare.json"
    comparison = json.loads(path.read_text())
    del comparison["images"]["normalize_mean"], comparison["images"]["normalize_std"]
    path.write_text(json.dumps(comparison))
    compare(smoke, *ALL_OF_SMOKE)
    assert len(json.loads(path.read_text())["images"]["normalize_std"]) == 3


def test_the_comparisons_command_gives_all_of_its_options(smoke):
    comparison = json.loads((smoke / "compare.json").read_text())
    options = parse(shlex.split(comparison["command"])[1:])
    assert list(options.methods) == comparison["methods"]
    assert list(options.seeds) == comparison["seeds"]
    assert to_json(options.env) == comparison["env"]


def test_a_comparison_can_grow(smoke):
    kept = json.loads((smoke / "compare.json").read_text())
    compare(smoke, "--seeds", "3", "--methods", "tome")
    grown = json.loads((smoke / "compare.json").read_text())
    assert grown["methods"] == kept["methods"]
    assert grown["seeds"] == kept["seeds"]


def test_another_configuration_is_refused_by_name(smoke, capsys):
    options = [*TINY_OPTIONS, "--out", str(smoke), *ALL_OF_SMOKE]
    line = refused(capsys, "compare", *options, "--epochs", "3")
    assert "made with --epochs 2 instead of 3" in line
    line = refused(capsys, "compare", *options, "--std", "0.2", "0.2", "0.3")
    assert "made with --std None instead of [0.2, 0.2, 0.3]" in line
    run = smoke / "runs" / "tome__3"
    texts = {path: path.read_text() for path in (run / "config.json", run / "result.json")}
    config, result = texts
    try:
        config.write_text(texts[config].replace('"model": "tome"', '"model": "evit"'))
        digests = [hashlib.sha256(text.encode()).hexdigest() for text in
                   (texts[config], config.read_text())]  # fmt: skip
        line = refused(capsys, "compare", *options)
        assert f"{run}: damaged: config.json differs from its checksum in" in line
        result.write_text(texts[result].replace(*digests))
        line = refused(capsys, "compare", *options)
        assert f"{run} is a run of another configuration (--model evit instead" in line
    finally:
        for path, text in texts.items():
            path.write_text(text)


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("metrics.csv", lambda text: text[:-20], "damaged: metrics.csv differs from its checksum"),
        ("steps.csv", lambda text: text + "7\n", "damaged: steps.csv differs from its checksum"),
        ("result.json", lambda text: text[: len(text) // 2], "damaged: result.json cannot be read"),
        ("config.json", lambda text: "{}", "damaged: expected options in config.json"),
    ],
)
def test_a_damaged_run_is_refused_by_name(smoke, capsys, name, damage, message):
    path = smoke / "runs" / "evit__3" / name
    text = path.read_text()
    try:
        path.write_text(damage(text))
        line = refused(capsys, "compare", *TINY_OPTIONS, "--out", str(smoke), *ALL_OF_SMOKE)
        assert message in line
        assert "evit__3" in line
    finally:
        path.write_text(text)


def test_a_failed_run_and_those_that_follow_it_are_named_and_the_rest_continues(tmp_path, capfd):
    blocked = tmp_path / "out" / "runs" / "agentvit__0"
    blocked.mkdir(parents=True)
    (blocked / "config.json").mkdir()  # what the run cannot replace
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "out", "--seeds", "0", "--methods", *RULES)
    assert stop.value.code == 1
    shown = capfd.readouterr().out
    assert "agentvit__0 failed" in shown
    assert str(blocked / "log.txt") in shown
    assert "random_matched__0 failed: agentvit__0 failed, which it follows" in shown
    assert "simple_vit__0 done" in shown


def test_ctrl_c_ends_the_runs_and_prints_how_to_resume(tmp_path, capsys, monkeypatch):
    metrics = tmp_path / "runs" / "simple_vit__0" / "metrics.csv"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

    def wait(sentinels, timeout):
        assert len(sentinels) == 1
        if metrics.exists():
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)

    monkeypatch.setattr("vit_patch_env.experiments.process.executor.wait", wait)
    try:
        with pytest.raises(SystemExit) as stop:
            compare(tmp_path, "--methods", "simple_vit", "--epochs", "1000", "--out", str(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    assert "the same command resumes them" in capsys.readouterr().out
    assert len(list(metrics.parent.glob("checkpoints/*.ckpt"))) == 1
    size = metrics.stat().st_size
    time.sleep(0.5)
    assert metrics.stat().st_size == size  # nobody trains on


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "table3"], f"preset must be one of {', '.join(PRESETS)}, got 'table3'"),
        (["--methods", "magic"], "--methods must be one of vit, simple_vit, ats_vit"),
        (["--methods", "tome", "tome"], "--methods must differ from each other, got tome twice"),
        (
            ["--methods", "random"],
            "--methods must include agentvit, whose number of patches random keeps",
        ),
        (["--seeds", "1", "1"], "--seeds must differ from each other, got 1 twice"),
        (["--seeds", "-1"], "--seeds must be a list, each an integer in [0, 4294967295], got -1"),
        (["--jobs", "0"], "jobs must be in [1, 10^9], got 0"),
        (["--epochs", "0"], "epochs must be in (0, 10^9], got 0"),
        (["--model", "tome"], "model is set by the methods"),
        (["--reward", "aic"], "reward is set by the methods"),
        (["--per-image"], "per-image is set by the methods"),
        (["--budget", "dollars"], "budget must be one of epochs, flops, seconds, got 'dollars'"),
        (
            ["--budget", "flops", "--methods", *RULES],
            "--budget must be epochs, so that all runs have as many steps, for method "
            "random_matched, which repeats another run step by step, got flops",
        ),
        (
            ["--budget", "seconds", "--methods", "agentvit", "random"],
            "--methods must include simple_vit, whose training time is the budget",
        ),
        (["--seconds", "3"], "got --budget epochs and --seconds 3.0"),
        (["--dataset", "imagenet"], "dataset must be one of digits"),
        (
            ["--methods", "evit", "--batch-size", "5000"],
            "--batch-size must be in [1, 460], got 5000",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_starts(args, message, tmp_path, capsys):
    out = tmp_path / "out"
    line = refused(capsys, "compare", *TINY_OPTIONS, "--out", str(out), *args)
    assert message in line
    assert not out.exists()


@pytest.mark.long
def test_all_patches_take_the_epochs_and_fewer_allow_more_steps(tmp_path):
    options = ["--seeds", "0", "--methods", "simple_vit", "agentvit", "flip"]
    compare(tmp_path, "--budget", "flops", *options)
    runs = {run.method: run for run in read_comparison(tmp_path).runs.values()}
    assert len(runs) == 3
    assert numbers(tmp_path, "simple_vit__0") == [16] * 14
    # The agent pays for what it sees of all patches.
    assert 14 < runs["agentvit"].metric("n_steps") < runs["flip"].metric("n_steps")
    total = runs["simple_vit"].metric("flops")
    for run in runs.values():
        assert run.progress[-1] == 1
        assert total <= run.metric("flops") < 1.1 * total
    assert read_comparison(tmp_path).steps_per_epoch == 7


@pytest.mark.long
def test_the_training_time_with_all_patches_is_the_others_budget(tmp_path, capsys):
    options = [*TINY_OPTIONS, "--out", str(tmp_path), "--budget", "seconds"]
    options += ["--seeds", "1", "--methods", "random", "agentvit", "simple_vit"]
    main(["compare", *options])
    runs = {run.method: run for run in read_comparison(tmp_path).runs.values()}
    budgets = {name: run.config["options"]["env"] for name, run in runs.items()}
    assert (budgets["simple_vit"]["budget"], budgets["simple_vit"]["seconds"]) == ("epochs", None)
    seconds = round(runs["simple_vit"].seconds, 3)
    for name in ("agentvit", "random"):
        assert (budgets[name]["budget"], budgets[name]["seconds"]) == ("seconds", seconds)
    order = [line.split("__")[0] for line in capsys.readouterr().out.split("\n") if " done" in line]
    assert order == ["simple_vit", "agentvit", "random"]
    main(["compare", *options])
    assert " done after" not in capsys.readouterr().out
    result = tmp_path / "runs" / "simple_vit__1" / "result.json"
    content = json.loads(result.read_text())
    result.write_text(json.dumps({**content, "train_seconds": content["train_seconds"] + 1}))
    line = refused(capsys, "compare", *options)
    assert f"seconds {seconds} instead of {round(seconds + 1, 3)}" in line


@pytest.mark.long
def test_given_seconds_are_the_budget_of_all_runs(tmp_path):
    compare(tmp_path, "--budget", "seconds", "--seconds", "0.2", "--methods", "simple_vit", "vit")
    runs = read_comparison(tmp_path).runs
    assert len(runs) == 4
    for run in runs.values():
        assert run.config["options"]["env"]["seconds"] == 0.2
        assert run.progress[-1] == 1


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_presets_values_can_be_changed_one_by_one(name):
    assert parse(["compare", "--preset", name]) == PRESETS[name]
    changed = parse(["compare", f"--preset={name}", "--dim", "48", "--seeds", "7"])
    assert changed.seeds == (7,)
    assert changed.env.dim == 48
    assert changed.env.dataset == PRESETS[name].env.dataset


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", list(METHODS))
def test_a_runs_command_gives_its_options(name, tmp_path):
    env = EnvConfig(epochs=3, flip=False, n_patches_desired=None)
    options = method_options(METHODS[name], 2, env, tmp_path / "run")
    assert parse(shlex.split(command("train", options, TrainOptions()))[1:]) == options


def test_commands_name_every_kind_of_value():
    words = "train --agent ppo --sb3 n_steps=8 ent_coef=0.1 --dqn.tau 0.5 --overwrite --flip True"
    options = parse(words.split())
    assert isinstance(options, TrainOptions)
    assert parse(shlex.split(command("train", options, TrainOptions()))[1:]) == options


def test_the_live_table_shows_states_and_the_time_left(tmp_path):
    console = Console(width=100, file=io.StringIO())
    options = parse(
        ["compare", *TINY_OPTIONS, "--out", str(tmp_path), "--methods", "vit", "simple_vit"]
    )
    comparison = Comparison(options, console)
    comparison.prepare()
    entries = comparison.entries
    for entry, state in zip(entries, ("done", "running", "failed", "waiting"), strict=True):
        entry.state = state
    entries[0].note, entries[0].seconds, entries[1].progress = "71.2%", 600.0, 0.5
    console.print(CompareDisplay(1, console).table("", entries))
    shown = " ".join(console.file.getvalue().split())
    assert "71.2%" in shown
    assert "at 50%" in shown
    assert "1 done, 1 running, 1 failed, 1 waiting, about 15 min left" in shown
