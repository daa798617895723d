import builtins
import csv
import json
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY_OPTIONS
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import MultiOutputDQN
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.agents_by_name.factory import agent_class
from vit_patch_env.experiments.cli import COMMANDS, main, parse
from vit_patch_env.experiments.options.commands import DQNOptions, TrainOptions
from vit_patch_env.experiments.options.flat import flat
from vit_patch_env.experiments.run_folder.folder import RunFolder

FILES = {
    "config.json", "metrics.csv", "steps.csv", "selected.csv", "result.json", "vit.safetensors",
    "agent.zip", ".lock", "predictions.csv", "confusion.png", "mistakes.png",
}  # fmt: skip
TIMES = {"images_per_second", "train_seconds", "agent_seconds", "waiting_share"}


def train(out, *args):
    main(["train", *TINY_OPTIONS, "--out", str(out), *args])
    return json.loads((out / "result.json").read_text())


def rows(out):
    with (out / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def refused(capsys, *args):
    """The one line that a bad command prints."""
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_run_folder_holds_everything(tmp_path, capsys):
    out = tmp_path / "run"
    result = train(out, "--dqn.learning-starts", "4", "--log-interval", "5")
    names = {path.name for path in out.iterdir()}
    assert names >= FILES
    assert len(names) == len(FILES) + 1  # and TensorBoard's events
    assert [row["epoch"] for row in rows(out)] == ["1", "2"]
    assert 1 <= result["test"].pop("n_selected_mean") <= 16
    assert 0 <= result["slow_share"] < 1
    for figures in result["test"].values():
        assert set(figures) == {"loss", "accuracy", "precision", "recall", "f1"}
    assert result["train_seconds"] > 0
    assert result["agent_seconds"] > 0
    assert 1 <= result["n_selected_mean"] <= 16
    assert result["n_steps"] == 14
    assert result["command"].startswith("vit-patch")
    assert result["versions"]["torch"] == torch.__version__.split("+")[0]
    assert result["device"] == "cpu"
    assert result["flops"] == sum(int(row["flops"]) for row in rows(out)) > 0
    assert 1e8 < result["peak_memory_bytes"] < 1e11
    with (out / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    n_selected = [int(step["n_selected"]) for step in steps]
    assert sum(n_selected) / 14 == pytest.approx(result["n_selected_mean"])
    seconds = sum(float(step["seconds"]) for step in steps)
    assert 0 < seconds <= result["train_seconds"] + result["agent_seconds"]
    with (out / "selected.csv").open() as file:
        selected = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in selected] == ["1", "2"]
    for row, epoch in zip(selected, rows(out), strict=True):
        assert sum(map(float, row.values())) == pytest.approx(float(epoch["n_selected"]), abs=0.01)
    shown = capsys.readouterr().out
    assert "the agent's patches" in shown
    assert f"tensorboard --logdir {out}" in shown.replace("\n", "")
    events = EventAccumulator(str(out))
    events.Reload()
    assert {
        "vit/train_loss", "vit/val_accuracy", "env/n_selected", "env/reward_loss",
        "env/reward_patch", "agent/epsilon", "train/loss", "rollout/ep_rew_mean", "time/fps",
    } <= set(events.Tags()["scalars"])  # fmt: skip
    assert "_hparams_/experiment" in events.summary_metadata


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    "agent",
    [
        "paper", "branching", "bandit", "ppo", "a2c", "all", "random", "spread", "centre",
        "attended", "quadratic",
    ],
)  # fmt: skip
def test_every_agent_trains_and_is_evaluated_again_to_the_same_metrics(agent, tmp_path, capsys):
    out = tmp_path / agent
    result = train(out, "--agent", agent)
    table = capsys.readouterr().out.split("Test images")[1].split("Trained")[0]
    main(["evaluate", str(out)])
    assert capsys.readouterr().out.split("Test images")[1].strip() == table.strip()
    if agent == "all":
        assert result["test"]["all_patches"] == result["test"]["agent_patches"]
        assert result["n_selected_mean"] == 16
    elif agent in ("random", "spread", "centre", "attended"):
        assert result["n_selected_mean"] == 8


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("agent", "actions"), [("dqn", "count"), ("qrdqn", "count"), ("sac", "top_k"), ("td3", "top_k")]
)
def test_other_algorithms_use_other_actions(agent, actions, tmp_path, capsys):
    out = tmp_path / agent
    values = ["--sb3", "learning_starts=3", "buffer_size=50"]
    train(out, "--agent", agent, "--actions", actions, *values)
    table = capsys.readouterr().out.split("Test images")[1].split("Trained")[0]
    assert RunFolder(out).options.actions == actions
    main(["evaluate", str(out)])
    assert capsys.readouterr().out.split("Test images")[1].strip() == table.strip()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("budget", "more"), [("flops", []), ("seconds", ["--seconds", "0.4"])])
def test_runs_end_with_their_budget(budget, more, tmp_path, capsys):
    out = tmp_path / "run"
    values = ["--agent", "random", "--n-patches-desired", "4", "--observation", "none"]
    result = train(out, *values, "--budget", budget, *more)
    assert float(rows(out)[-1]["progress"]) == 1
    if budget == "flops":
        assert result["n_steps"] > 2 * 14
        assert result["flops"] == pytest.approx(train(tmp_path / "all", "--agent", "all",
            "--observation", "none")["flops"], rel=0.02)  # fmt: skip


def test_evaluation_equals_the_result_to_the_last_digit(tmp_path):
    from rich.console import Console

    from vit_patch_env.experiments.options.commands import EvaluateOptions
    from vit_patch_env.experiments.runs.evaluate import Evaluation

    result = train(tmp_path / "run")
    evaluation = Evaluation(EvaluateOptions(run=str(tmp_path / "run")), Console(quiet=True))
    evaluation.prepare()
    assert evaluation.run()["test"] == result["test"]


def test_same_seed_same_metrics_except_times(tmp_path):
    for name in ("one", "two"):
        train(tmp_path / name, "--seed", "3")
        torch.rand(7)
    one, two = (
        [{key: row[key] for key in row if key not in TIMES} for row in rows(tmp_path / name)]
        for name in ("one", "two")
    )
    assert one == two
    other = train(tmp_path / "three", "--seed", "4")
    assert other["test"] != json.loads((tmp_path / "one" / "result.json").read_text())["test"]


def test_a_folder_of_images_and_a_moved_one(make_folder, tmp_path):
    root = make_folder(n_images=60)
    out = tmp_path / "run"
    options = ["--dataset", "folder", "--data-dir", str(root), "--batch-size", "32"]
    train(out, *options, "--train-fraction", "0.5")
    moved = root.rename(tmp_path / "moved")
    main(["evaluate", str(out), "--data-dir", str(moved)])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("command", ["train", "evaluate", "pretrain", "compare", "bench"])
def test_commands_say_what_was_read(command, make_folder, tmp_path, monkeypatch, capsys):
    root, run = make_folder(n_images=60), tmp_path / "run"
    (root / "train" / ":dog:[red]").mkdir()
    data = ["--dataset", "folder", "--data-dir", str(root), "--batch-size", "8"]
    if command == "evaluate":
        train(run, *data, "--epochs", "1", "--agent", "random")
        capsys.readouterr()
    words = {
        "train": [*TINY_OPTIONS, *data, "--out", str(run)],
        "evaluate": [str(run)],
        "pretrain": [*TINY_OPTIONS, *data, "--agent", "bandit", "--out", f"{run}.zip"],
        "compare": [*TINY_OPTIONS, *data, "--methods", "simple_vit", "--out", str(run)],
        "bench": [*data, "--out", str(run)],
    }
    made = {
        "train": "runs.train.Run",
        "pretrain": "runs.pretrain.Pretraining",
        "compare": "compare.comparison.Comparison",
    }
    kind = made.get(command) or COMMANDS[command][1].replace(":", ".")
    monkeypatch.setattr(f"vit_patch_env.experiments.{kind}.run", lambda self: None)
    main([command, *words[command]])
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["Loading folder ...", "left out: 1 empty folder (:dog:[red])"]


def test_a_run_is_evaluated_from_another_folder(make_folder, tmp_path, monkeypatch):
    root = make_folder(n_images=80)
    monkeypatch.chdir(root.parent)
    options = ["--dataset", "folder", "--data-dir", root.name, "--agent", "all", "--epochs", "1"]
    train(tmp_path / "run", *options)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(["evaluate", str(tmp_path / "run")])


def test_values_of_a_stable_baselines_algorithm_reach_it(tmp_path):
    from stable_baselines3 import PPO

    train(tmp_path / "run", "--agent", "ppo", "--sb3", "n_steps=7", "batch_size=7", "gamma=0.5")
    agent = PPO.load(tmp_path / "run" / "agent.zip")
    assert (agent.n_steps, agent.batch_size, agent.gamma) == (7, 7, 0.5)


def test_values_of_the_papers_agent_reach_it(tmp_path):
    train(tmp_path / "run", "--dqn.gamma", "0.5", "--dqn.exploration-decay-steps", "9")
    agent = MultiOutputDQN.load(tmp_path / "run" / "agent.zip")
    assert (agent.gamma, agent.exploration_decay_steps) == (0.5, 9)


def test_a_run_is_kept_unless_overwriting_is_asked_for(tmp_path, capsys):
    out = tmp_path / "run"
    train(out)
    note = out / "notes.txt"
    note.write_text("mine")
    before = (out / "result.json").read_text()
    line = refused(capsys, "train", *TINY_OPTIONS, "--out", str(out))
    assert f"got {out}, which holds config.json" in line
    assert (out / "result.json").read_text() == before
    train(out, "--overwrite", "--epochs", "1")
    assert len(rows(out)) == 1
    assert len(list(out.glob("events*"))) == 1
    assert note.read_text() == "mine"


@pytest.mark.one_in(4)
@pytest.mark.parametrize("agent", ["all", "paper", "ppo", "attended"])
def test_a_divergence_is_reported_and_leaves_valid_json(agent, tmp_path):
    result = train(tmp_path / "run", "--agent", agent, "--learning-rate", "1e30")
    assert result["diverged"]
    assert result["test"]["all_patches"]["loss"] is None


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--dataset", "imagenet"], "--dataset must be one of digits, cifar10"),
        (
            ["--agent", "sarsa"],
            "--agent must be one of paper, branching, bandit, all, random",
        ),
        (["--agent", "dqn"], "count (CountAction) for Discrete (dqn, qrdqn)"),
        (["--agent", "sac"], "top_k (TopKAction) for Box (sac, td3)"),
        (["--agent", "ppo", "--actions", "bits"], "--actions must be one of mask, count, top_k"),
        (["--agent", "bandit", "--actions", "count"], "--actions must be mask for --agent bandit"),
        (
            ["--agent", "bandit", "--observation", "none"],
            "needs an --observation with",
        ),
        (
            ["--agent", "random", "--sampling", "spread"],
            "--sampling belongs to pss, pss_linear, flip, quadratic, matched, got --agent random",
        ),
        (
            ["--agent", "pss", "--sampling", "grid"],
            "--sampling must be one of uniform, spread, got 'grid'",
        ),
        (["--epochs", "0"], "--epochs must be in (0, 10^9], got 0"),
        (["--epochs", "many"], "--epochs must be an integer in [1, 10^9], got 'many'"),
        (["--budget", "joules"], "--budget must be one of epochs, flops, seconds, got 'joules'"),
        (["--budget", "seconds"], "--seconds must be given if and only if --budget is seconds"),
        (["--budget", "seconds", "--seconds", "0"], "--seconds must be in (0, inf), got 0"),
        (["--reward", "profit"], "--reward must be one of paper, validation, progress, aic"),
        (["--precision", "fp8"], "--precision must be one of auto, fp32, bf16, fp16, got 'fp8'"),
        (
            ["--patch-size", "5"],
            "--image-size must be divisible by --patch-size",
        ),
        (["--dim", "18"], "--dim must be divisible by 4, got 18"),
        (["--n-patches-desired", "17"], "--n-patches-desired must be in [1, 16], got 17"),
        (["--alpha", "-0.1"], "--alpha must be in [0, 1], got -0.1"),
        (["--dataset", "folder", "--data-dir", "/nowhere"], "'/nowhere': no such folder"),
        (["--device", "tpu"], "--device must be auto, cpu, cuda"),
        (
            ["--sb3", "gamma=1"],
            "--sb3 belongs to algorithms of Stable-Baselines3, got --agent",
        ),
        (["--agent", "ppo", "--sb3", "speed=1"], "--sb3 must be values of ppo"),
        (["--agent", "ppo", "--sb3", "gamma"], "--sb3 must be given as name=value, got 'gamma'"),
        (
            ["--agent", "ppo", "--dqn.tau", "0.5"],
            "--dqn belongs to paper, branching, got",
        ),
        (["--agent", "ppo", "--follow", "run"], "--follow belongs to matched, got --agent ppo"),
        (
            ["--agent", "matched"],
            "--follow must be a run if and only if --agent is matched",
        ),
        (
            ["--dqn.exploration-initial-eps", "2"],
            "--dqn.exploration-initial-eps must be in [0, 1], got 2",
        ),
        (
            ["--dqn.exploration-decay-steps", "nan"],
            "--dqn.exploration-decay-steps must be in (0, inf], got nan",
        ),
        (["--dqn.train-freq", "0"], "--dqn.train-freq must be in [1, inf), got 0"),
        (["--dqn.target-update-interval", "0"], "target-update-interval must be in [1, inf)"),
        (["--agent", "bandit", "--bandit.n-stages", "1"], "--bandit.n-stages must be in [2, inf)"),
        (["--seed", "-1"], "--seed must be in [0, 4294967295], got -1"),
        (["--log-interval", "0"], "--log-interval must be in [1, 10^9], got 0"),
        (["--agent", "random", "--n-patches-desired", "None"], "random needs --n-patches-desired"),
        (["--agent", "ppo", "--sb3", "policy=x"], "--sb3 must be values of ppo"),
        (["--agent", "ppo", "--sb3", "n_steps=abc"], "--sb3 values are refused by ppo"),
        (["--agent", "ppo", "--sb3", "batch_size=1"], "--sb3 values are refused by ppo"),
        (["--batch-size", "5000"], "--batch-size must be in [1, 460], got 5000"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, message, tmp_path, capsys):
    out = tmp_path / "run"
    line = refused(capsys, "train", *TINY_OPTIONS, "--out", str(out), *args)
    assert message in line
    assert not out.exists()


def test_an_unreadable_image_is_named_on_the_command_line(make_folder, tmp_path, capsys):
    root = make_folder()
    broken = root / "test" / "cat" / "003.png"
    broken.write_bytes(b"no image")
    options = [*TINY_OPTIONS, "--dataset", "folder", "--data-dir", str(root)]
    assert str(broken) in refused(capsys, "train", *options, "--out", str(tmp_path / "run"))


def test_a_folder_without_a_finished_run_cannot_be_evaluated(tmp_path, capsys):
    line = refused(capsys, "evaluate", str(tmp_path))
    assert "RUN must be the folder of a finished run, got" in line
    assert line.endswith("there is no config.json in it")


def test_broken_files_of_a_run_are_named(tmp_path, capsys):
    out = tmp_path / "run"
    train(out, "--agent", "random", "--epochs", "1")
    (out / "vit.safetensors").write_bytes(b"broken")
    assert "vit.safetensors" in refused(capsys, "evaluate", str(out))
    (out / "vit.safetensors").unlink()
    assert "with vit.safetensors" in refused(capsys, "evaluate", str(out))
    (out / "result.json").write_text("{")
    assert "expected JSON in" in refused(capsys, "evaluate", str(out))


def test_renamed_classes_are_detected(make_folder, tmp_path, capsys):
    root, out = make_folder(n_images=80), tmp_path / "run"
    train(out, "--dataset", "folder", "--data-dir", str(root), "--agent", "all", "--epochs", "1")
    for split in ("train", "test"):
        (root / split / "cat").rename(root / split / "yak")
    assert "expected the run's classes ['cat', 'dog']" in refused(capsys, "evaluate", str(out))


def test_out_must_not_be_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        for more in ([], ["--overwrite"]):
            args = [*TINY_OPTIONS, "--out", str(out), *more]
            assert f"out must be a folder, got {out}" in refused(capsys, "train", *args)


def test_by_default_runs_go_to_a_folder_with_a_descriptive_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["train", *TINY_OPTIONS, "--epochs", "1", "--agent", "random", "--seed", "5"])
    (out,) = Path("runs").iterdir()
    assert out.name.startswith("synthetic__random__5__")


def test_in_a_notebook_commands_print_text(tmp_path, monkeypatch, capsys):
    shell = type("ZMQInteractiveShell", (), {})  # by whose name rich knows a notebook
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    train(tmp_path / "run", "--epochs", "1", "--agent", "random")
    assert capsys.readouterr().out.count("Test images") == 1


def test_every_value_of_environment_and_agent_is_on_the_command_line():
    env = dict(signature(ViTPatchSelectEnv).parameters)
    for name in ("render_mode", "distributed"):  # not for a command line
        del env[name]
    options = flat(TrainOptions())
    defaults = {name: parameter.default for name, parameter in env.items()}
    assert defaults.pop("n_patches_desired") == "auto"
    assert options["n_patches_desired"] == 40  # of the 64 patches by default
    sizes = {name: value for name, value in EnvConfig().adapted.items() if name in defaults}
    assert {name: defaults[name] for name in sizes} == dict.fromkeys(sizes)
    adopted = sizes | {"interpolation": "bilinear"}
    assert {name: options[name] for name in defaults} == defaults | adopted
    assert parse(["train", "--dim-head", "8", "--dqn.tau", "0.5"]).env.dim_head == 8
    dqn = signature(MultiOutputDQN).parameters
    for field in fields(DQNOptions):
        assert field.default == dqn[field.name].default


def test_agents_by_name():
    assert agent_class("paper") is agent_class("branching") is MultiOutputDQN
    assert agent_class("ppo").__name__ == "PPO"
    for name in ("common", "her", "nonsense"):
        with pytest.raises(ValueError, match=f"got '{name}'"):
            agent_class(name)


def test_without_arguments_the_help_is_shown(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code in (0, None)
    assert "usage: vit-patch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("former", "present"),
    [("--draw", "--sampling"), ("--dqn.eps-start", "--dqn.exploration-initial-eps")],
)
def test_options_of_version_0_1_are_named_with_their_successors(former, present, capsys):
    line = refused(capsys, "train", f"{former}=1")
    assert f"{former} is called {present} since version 0.2" in line
