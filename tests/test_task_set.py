"""The set of tasks, comparisons on it, and the report over tasks."""

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tests.conftest import TINY
from tests.test_cli import refused, train
from tests.test_schedule_of_agent import schedule_bandit
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.agents import RunContext
from vit_patch_env.experiments.agents_by_name.agent_file import read_card, read_parameters
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.results import read_run
from vit_patch_env.experiments.compare.task_results import read_task_set
from vit_patch_env.experiments.report.regret import (
    best_on_average,
    best_on_each,
    hierarchical,
    paired_differences,
    profile,
    regrets,
)
from vit_patch_env.experiments.task_set.env import TaskSetEnv
from vit_patch_env.experiments.task_set.table import TASKS, Task, tasks_named

ROOT = Path(__file__).parent.parent

SCORES = {
    "easy": {"few": {0: 0.9, 1: 0.8}, "all": {0: 0.7, 1: 0.7}, "agent": {0: 0.9, 1: 0.9}},
    "hard": {"few": {0: 0.2, 1: 0.4}, "all": {0: 0.5, 1: 0.6}, "agent": {1: 0.5}},
}


def tiny_task(name, split, currency="flops", **values):
    """A task of the synthetic images."""
    env = {
        one: TINY[one] for one in TINY if one not in ("device", "precision", "n_patches_desired")
    }
    env |= {"budget": "flops", "epochs": 1, **values}
    return Task(f"{name}-16-xs-1-{currency}", split, "synthetic", currency, None, env)


@pytest.fixture
def tiny_tasks(monkeypatch):
    """Three tasks in the place of the set's."""
    tasks = [
        tiny_task("first", "training"),
        tiny_task("second", "held-out", "time", epochs=0.5, step_overhead=0.5),
        tiny_task("third", "training", batch_size=32),
    ]
    for name in list(TASKS):
        monkeypatch.delitem(TASKS, name)
    for task in tasks:
        monkeypatch.setitem(TASKS, task.name, task)
    return tasks


def compare(out, *tasks):
    main(
        ["compare", "--tasks", *tasks, "--device", "cpu", "--precision", "fp32", "--methods",
         "simple_vit", "constant_4", "pretrained", "--seeds", "0", "--out", str(out)]
    )  # fmt: skip


def test_held_out_tasks_differ_in_data_vit_and_budget():
    def parts(split):
        names = [task.name.split("-") for task in TASKS.values() if task.split == split]
        data, _, vits, epochs, _ = zip(*names, strict=True)
        return {one.partition("_")[0] for one in data}, set(vits), set(epochs)

    for learned, tested in zip(parts("training"), parts("held-out"), strict=True):
        assert learned
        assert tested
        assert not learned & tested


@pytest.mark.parametrize("name", TASKS)
def test_each_task_is_an_environment_of_the_patches_in_its_name(name):
    task = TASKS[name]
    env = task.env("/data", device="cpu")
    data, n_patches, _, epochs, currency = name.split("-")
    assert env.n_patches == int(n_patches)
    assert env.epochs == float(epochs)
    assert env.budget == "flops"
    assert (env.step_overhead > 0) == (currency == "time")
    assert (env.data_dir is None) == (data == "digits")
    assert task.currency == currency


def test_tasks_by_name():
    assert tasks_named(("all",)) == list(TASKS.values())
    assert {task.split for task in tasks_named(("training",))} == {"training"}
    first, *_, last = TASKS
    assert [task.name for task in tasks_named((last, first))] == [first, last]
    with pytest.raises(ValueError, match=r"tasks must be training, held-out, all, .* got 'digit'"):
        tasks_named(("digit",))


def test_the_best_rules_and_what_others_lose_to_them():
    rules = ["few", "all"]
    best = best_on_each(SCORES, rules)
    assert {task: one.method for task, one in best.items()} == {"easy": "few", "hard": "all"}
    assert regrets(SCORES, "few", best) == pytest.approx({"easy": 0.0, "hard": 0.25})
    assert regrets(SCORES, "agent", best) == pytest.approx({"easy": -0.05, "hard": 0.05})
    assert best_on_average(SCORES, rules) == "all"  # 0.625 against 0.575
    assert best_on_average(SCORES, ["none"]) is None
    assert best_on_each(SCORES, ["few"]) == {}  # one rule is no search
    assert paired_differences(SCORES, "agent", "all") == {
        "easy": pytest.approx([0.2, 0.2]), "hard": pytest.approx([-0.1]),
    }  # fmt: skip
    shares = profile([0.0, 0.02, 0.2], np.array([0.0, 0.01, 0.02, 0.3]))
    assert shares == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])


@pytest.mark.long
def test_the_interval_is_over_tasks_and_seeds():
    rng = np.random.default_rng(0)
    covered, n_trials = 0, 30
    for _ in range(n_trials):
        groups = [rng.normal(center, 1, 4) for center in rng.normal(0, 2, 12)]
        found = hierarchical(groups)
        assert found.low < found.mean < found.high
        covered += found.low <= 0 <= found.high
    assert covered / n_trials > 0.85
    assert hierarchical([np.ones(3), np.ones(2)])[:3] == (1, 1, 1)
    assert np.isnan(hierarchical([np.ones(3)]).low)  # one task says nothing about others


@pytest.mark.long
def test_a_comparison_of_tasks_and_its_report(tiny_tasks, tmp_path, capsys):
    first, second, _ = (task.name for task in tiny_tasks)
    compare(tmp_path / "tasks", first, second)
    content = json.loads((tmp_path / "tasks" / "tasks.json").read_text())
    assert content["tasks"] == [first, second]
    envs = [
        json.loads((tmp_path / "tasks" / name / "compare.json").read_text())["env"]
        for name in (first, second)
    ]
    assert [env["step_overhead"] for env in envs] == [0, 0.5]
    results = read_task_set(tmp_path / "tasks")
    assert results.of_split("held-out") == [second]
    assert set(results.scores([first])[first]) == {"simple_vit", "constant_4", "pretrained"}
    assert results.is_fixed("simple_vit")
    assert results.is_fixed("constant_4")
    assert results.is_agent("pretrained")
    capsys.readouterr()
    for path in (tmp_path / "tasks").rglob("steps.csv"):
        path.unlink()  # the largest file of a run, which results of tasks need not have
    compare(tmp_path / "tasks", first, second)  # all runs are finished
    assert "done after" not in capsys.readouterr().out
    agent = tmp_path / "agent.zip"
    learn = ["pretrain", "--agent", "schedule_bandit", "--device", "cpu", "--out", str(agent)]
    main([*learn, "--runs", str(tmp_path / "tasks")])
    assert f"{first}: " in capsys.readouterr().out
    card = read_card(agent)
    assert (card.agent, card.grid, card.provenance["runs"]) == ("schedule_bandit", None, 2)
    runs = read_parameters(agent)["policy"]["runs"]
    assert runs[:, 10:14].tolist() == [[1, 0, 1, 0], [0.25, 0, 1, 0]]  # of a training task
    folders = [
        tmp_path / "tasks" / first / "runs" / f"{name}__0" for name in ("simple_vit", "constant_4")
    ]
    values = [read_run(one, with_steps=False).test_metric("accuracy") for one in folders]
    assert runs[:, 14].tolist() == values
    env = tiny_tasks[0].env(None, device="cpu", observation="none+run")
    info = ViTPatchSelectEnv(**asdict(env)).reset(seed=0)[1]
    assert runs[0, :10].tolist() == RunContext.from_info(info).numbers()
    result = train(tmp_path / "run", "--agent", str(agent), "--budget", "flops", "--epochs", "1")
    assert result["n_selected_mean"] <= 16
    other = ["--out", str(tmp_path / "other.zip"), "--runs", str(tmp_path / "tasks"), "--agent"]
    assert "--agent must be schedule_bandit" in refused(capsys, "pretrain", *other, str(agent))
    assert "--actions must be mask" in refused(
        capsys, "pretrain", *other, "schedule_bandit", "--actions", "count"
    )
    held_out = tmp_path / "held-out"
    shutil.copytree(
        tmp_path / "tasks", held_out, ignore=lambda _, names: [first] * (first in names)
    )
    learn[-1] = str(tmp_path / "other.zip")
    assert "runs of two schedules of the family" in refused(capsys, *learn, "--runs", str(held_out))
    learn[-1] = str(agent)
    assert "--out must be a new file" in refused(capsys, *learn, "--runs", str(tmp_path / "tasks"))
    main(["report", str(tmp_path / "tasks")])
    report = (tmp_path / "tasks" / "report.md").read_text()
    assert "Held-out tasks (1): the best single fixed rule, chosen on the training tasks" in report
    assert "## Held-out tasks: regret" in report
    assert (tmp_path / "tasks" / "plots" / "profile.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_tasks_have_the_same_agent(tiny_tasks, tmp_path, capsys):
    agent = schedule_bandit(tmp_path / "own_agent.zip")
    first, second, _ = (task.name for task in tiny_tasks)
    out = tmp_path / "tasks"
    options = ["--methods", agent, "--seeds", "0", "--device", "cpu", "--out", str(out)]
    main(["compare", "--tasks", first, *options])
    main(["compare", "--tasks", first, second, *options])
    assert read_task_set(out).is_agent("own_agent")
    schedule_bandit(tmp_path / "own_agent.zip", likes_few=False)
    line = refused(capsys, "compare", "--tasks", second, *options)
    assert line.endswith(f"got another one in {agent}")
    path = out / second / "compare.json"
    content = json.loads(path.read_text())
    content["agents"]["own_agent"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    assert "expected the agent own_agent of" in refused(capsys, "report", str(out))


@pytest.mark.long
def test_the_committed_results_are_of_these_tasks():
    results = read_task_set(ROOT / "results" / "tasks")
    assert not results.problems
    assert {task.name for task in tasks_named(("training",))} <= set(results.comparisons)
    fixed = [method for method in results.methods if results.is_fixed(method)]
    assert set(results.methods) - set(fixed) == {"schedule_bandit"}
    scores = results.scores(results.of_split("training"))
    assert best_on_average(scores, fixed) == "from_16_power_4"


def test_an_environment_of_tasks_has_one_interface_and_resumes(tiny_tasks):
    configs = [
        task.env(None, device="cpu", precision="fp32", observation="none+run", reward="validation")
        for task in tiny_tasks
    ]
    env, other = TaskSetEnv(configs, seed=0), TaskSetEnv(configs, seed=1)
    check_env(env, skip_render_check=True)
    observation, info = env.reset(seed=3)
    assert observation in env.observation_space
    mask = np.arange(64) < 16  # a quarter of the patches, also of a grid of 16
    *_, info = env.step(mask.astype(np.int8))
    assert info["n_selected"] == 4
    other.reset(seed=5)
    other.load_state_dict(copy.deepcopy(env.state_dict()))
    for _ in range(60):
        results = [one.step(mask.astype(np.int8)) for one in (env, other)]
        assert results[0][0].tolist() == results[1][0].tolist()
        assert results[0][1:4] == results[1][1:4]
        if results[0][3]:
            for one in (env, other):
                one.reset()
            assert env._place == other._place


def test_tasks_with_the_grid_of_the_actions_train_on_the_patches_that_were_selected(monkeypatch):
    task = tiny_task("fine", "training", patch_size=4)
    env = TaskSetEnv([task.env(None, device="cpu", observation="none+run")], seed=0)
    env.reset(seed=0)
    seen = []
    step = env.env.step
    monkeypatch.setattr(env.env, "step", lambda action: (seen.append(action), step(action))[1])
    mask = np.random.default_rng(0).random(64) < 0.3
    env.step(mask.astype(np.int8))
    assert seen[0].tolist() == mask.tolist()


@pytest.mark.long
@pytest.mark.one_in(2)
@pytest.mark.parametrize("agent", ["paper", "branching"])
def test_agents_with_a_value_for_each_patch_are_pretrained_across_tasks(
    agent, tmp_path, monkeypatch
):
    for name, epochs in (("short", 0.5), ("long", 1)):
        task = tiny_task(name, "training", patch_size=4, epochs=epochs)
        monkeypatch.setitem(TASKS, task.name, task)
    path = tmp_path / "agent.zip"
    main(
        ["pretrain", "--agent", agent, "--tasks", "short-16-xs-1-flops", "long-16-xs-1-flops",
         "--episodes", "3", "--device", "cpu", "--precision", "fp32", "--out", str(path),
         "--dqn.learning-starts", "4"]
    )  # fmt: skip
    card = read_card(path)
    assert (card.agent, card.grid, card.observation) == (agent, (8, 8), "none+run")
    train(tmp_path / "run", "--agent", str(path), "--epochs", "1", "--patch-size", "4")


@pytest.mark.one_in(2)
@pytest.mark.parametrize("agent", ["counting", "bandit"])
def test_an_agent_is_pretrained_across_tasks(agent, tiny_tasks, tmp_path, capsys):
    path = tmp_path / "agent.zip"
    more = ["--dqn.learning-starts", "4"] if agent == "counting" else []
    main(
        ["pretrain", "--agent", agent, "--tasks", "training", "--episodes", "3", "--device", "cpu",
         "--precision", "fp32", "--out", str(path), "--reward-every", "3", *more]
    )  # fmt: skip
    card = read_card(path)
    assert (card.agent, card.grid, card.observation) == (agent, None, "none+run")
    assert "--reward-every 3" in card.provenance["command"]
    assert card.provenance["episodes"] == 3
    train(tmp_path / "run", "--agent", str(path), "--epochs", "1")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--agent", "paper"], "must have 8x8 patches for --agent paper, which has a value"),
        (["--dim", "8"], "--dim is set by --tasks, got 8"),
        (["--observation", "attention_output"], "--observation is set by --tasks, got attention_"),
        (["--budgets", "1", "2"], "--budgets are those of --tasks, got"),
        (["--tasks", "all"], "--tasks must be for training, got second-16-xs-1-time, which is"),
        (["--tasks", "none"], "--tasks must be training, held-out, all, or names"),
        (["--runs", "x"], "--agent must be schedule_bandit for --runs, got bandit"),
        (["--runs", "x", "--agent", "schedule_bandit", "--jobs", "2"], "--jobs is of new runs"),
        (["--runs", "x", "--agent", "schedule_bandit"], "vit-patch compare --tasks wrote, got x"),
    ],
)
def test_bad_input_of_pretraining_is_one_line(args, message, tiny_tasks, tmp_path, capsys):
    out = tmp_path / "agent.zip"
    line = refused(
        capsys,
        "pretrain",
        "--tasks",
        "training",
        *args,
        "--out",
        str(out),
    )
    assert message in line
    assert not out.exists()


@pytest.mark.long
def test_agents_and_rules_without_a_seed_in_common_are_reported(tiny_tasks, tmp_path, capsys):
    name, out = tiny_tasks[0].name, str(tmp_path / "tasks")
    base = ["compare", "--tasks", name, "--device", "cpu", "--out", out, "--methods"]
    main([*base, "constant_4", "--seeds", "0"])
    main([*base, "pretrained", "--seeds", "1"])
    main(["report", out])
    report = (tmp_path / "tasks" / "report.md").read_text()
    assert "Constant 1/4" in report
    assert "against it" not in report


@pytest.mark.long
def test_a_task_with_one_rule_counts_as_none_without_loss(tiny_tasks, tmp_path):
    first, _, third = (task.name for task in tiny_tasks)
    out = str(tmp_path / "tasks")
    base = ["compare", "--device", "cpu", "--seeds", "0", "--out", out, "--methods"]
    main([*base, "constant_4", "--tasks", first, third])
    main(["report", out])
    report = (tmp_path / "tasks" / "report.md").read_text()
    assert "is Constant 1/4" not in report  # of one rule, none is the best
    assert "| Constant 1/4 | - | - | - | - | - | 0 |" in report
    main([*base, "simple_vit", "--tasks", first])
    main(["report", out])
    report = (tmp_path / "tasks" / "report.md").read_text()
    assert "(2): the best single fixed rule, chosen on the 1 with several rules, is " in report
    assert report.count("% | 1 |\n") == 2  # the rows of both rules
    assert "% | 2 |\n" not in report


@pytest.mark.long
def test_a_task_that_cannot_be_compared_does_not_stop_the_others(tiny_tasks, tmp_path, capsys):
    first, _, third = (task.name for task in tiny_tasks)
    folder = tmp_path / "tasks" / first
    folder.mkdir(parents=True)
    (folder / "compare.json").write_text("{}")
    args = ["compare", "--tasks", first, third, "--device", "cpu", "--methods", "simple_vit"]
    with pytest.raises(SystemExit) as stop:
        main([*args, "--seeds", "0", "--out", str(tmp_path / "tasks")])
    assert stop.value.code == 1
    assert "damaged: expected" in capsys.readouterr().err
    assert (tmp_path / "tasks" / third / "runs" / "simple_vit__0" / "result.json").exists()


def test_bad_input_is_one_line(tiny_tasks, tmp_path, capsys):
    out = str(tmp_path / "tasks")
    base = ["compare", "--tasks", "all", "--methods", "simple_vit", "--seeds", "0", "--out"]
    assert "--tasks must be training" in refused(capsys, "compare", "--tasks", "x", "--out", out)
    assert "--dim is set by --tasks, got 8" in refused(capsys, *base, out, "--dim", "8")
    assert "--preset is not for --tasks" in refused(capsys, *base, out, "--preset", "budget")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "tasks.json").write_text('{"tasks": ["x"]}')
    assert "expected names of tasks in tasks.json, got 'x'" in refused(capsys, "report", out)
    assert "add --tasks" in refused(capsys, "compare", "--out", out)
    (tmp_path / "tasks" / "tasks.json").write_text('{"tasks": "a"}')
    assert "damaged: tasks in tasks.json" in refused(capsys, *base, out)
    (tmp_path / "tasks" / "tasks.json").write_text('{"tasks": []}')
    assert "expected at least one finished run" in refused(capsys, "report", out)


@pytest.mark.long
def test_another_task_in_a_folder_is_refused(tiny_tasks, tmp_path, capsys, monkeypatch):
    name = tiny_tasks[0].name
    args = ["compare", "--tasks", name, "--device", "cpu", "--methods", "simple_vit", "--seeds"]
    main([*args, "0", "--out", str(tmp_path / "tasks")])
    monkeypatch.setitem(TASKS, name, tiny_task("first", "training", dim=24))
    assert "another task: dim is 16, expected 24" in refused(
        capsys, "report", str(tmp_path / "tasks")
    )
