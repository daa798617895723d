"""Runs that are given more epochs, and runs whose files elsewhere are gone when they resume."""

import json
import shutil

import pytest

from tests.conftest import TINY_OPTIONS
from tests.faults.runs import newest_step, trajectory
from tests.test_cli import refused
from tests.test_resume import stopped, train
from vit_patch_env.experiments.cli import main, parse
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.resume import resumed_options

EXACT = {
    "rule": ["--agent", "random"],
    "paper": ["--agent", "paper", "--dqn.exploration-decay-steps", "10", "--dqn.learning-starts",
              "3", "--dqn.batch-size", "4"],
    "flops": ["--agent", "centre", "--budget", "flops"],
}  # fmt: skip
"""Runs in which nothing depends on the length."""


def course(run):
    """Everything reproducible, with the progress rounded, but how the run was extended."""
    values = {name: value for name, value in trajectory(run).items() if name != "extensions"}
    names, *rows = values["metrics"]
    column = names.index("progress")
    for row in rows:
        row[column] = pytest.approx(float(row[column]), rel=1e-12)
    return values


def resume(out, *args):
    main(["train", "--resume", str(out), *args])


@pytest.mark.one_in(7)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("interval", ["5", "never"])
def test_a_finished_run_takes_the_course_of_the_longer_one(name, interval, tmp_path, capsys):
    short, long = tmp_path / "short", tmp_path / "long"
    words = [*EXACT[name], "--checkpoint-every", interval]
    train(short, *words)
    before, step = trajectory(short), newest_step(short)
    assert (step == 0) == (interval == "never")
    resume(short, "--epochs", "5")
    shown = capsys.readouterr().out
    assert "Extended from 3 to 5 epochs." in shown
    assert f"The results so far are in {short / '3_epochs'}." in shown
    assert (f"resumed at step {step}" in shown) == (interval == "5")
    assert "the result is not that of a new one" not in shown
    train(long, *words, "--epochs", "5")
    assert course(short) == course(long)
    assert trajectory(short / "3_epochs") == before
    commands = [json.loads((run / "config.json").read_text())["command"] for run in (short, long)]
    assert [command.replace("short", "long") for command in commands] == [commands[1]] * 2
    main(["evaluate", str(short / "3_epochs")])


@pytest.mark.long
def test_a_run_is_extended_again_and_again(tmp_path):
    run, long = tmp_path / "run", tmp_path / "long"
    stopped(run, "--agent", "random")
    for epochs in ("4", "6"):
        resume(run, "--epochs", epochs)
    assert not (run / "3_epochs").exists()
    assert RunFolder(run / "4_epochs").read_result()["n_steps"] == 4 * 7
    train(long, "--agent", "random", "--epochs", "6")
    assert course(run) == course(long)
    extensions = RunFolder(run).extensions
    assert [(one["before"], one["after"]) for one in extensions] == [(3, 4), (4, 6)]
    assert all(one["dependent"] == [] for one in extensions)


@pytest.mark.long
def test_an_extended_run_that_is_killed_at_once_resumes_from_the_checkpoint_before(
    tmp_path, monkeypatch, capsys
):
    run, long = tmp_path / "run", tmp_path / "long"
    train(run, "--agent", "random", "--checkpoint-every", "4")
    step = newest_step(run)
    with monkeypatch.context() as patch:
        patch.setattr(
            "vit_patch_env.experiments.runs.train.Run.run", lambda self: self.lock.release()
        )
        resume(run, "--epochs", "5")
    assert not RunFolder(run).is_finished
    capsys.readouterr()
    resume(run)
    assert f"resumed at step {step}" in capsys.readouterr().out
    train(long, "--agent", "random", "--epochs", "5")
    assert course(run) == course(long)


DEPENDENT = {
    "the schedule cosine": ["--agent", "random", "--schedule", "cosine"],
    "the warm-up": ["--agent", "random", "--warmup-epochs", "1"],
    "the observation none+run and the agent bandit": ["--agent", "bandit"],
    "the model token_expansion": ["--agent", "all", "--model", "token_expansion"],
    "the agent quadratic": ["--agent", "quadratic"],
    "the agent paper": ["--agent", "paper"],
    "the agent ppo": ["--agent", "ppo"],
}


@pytest.mark.long
@pytest.mark.parametrize("what", DEPENDENT)
def test_what_depends_on_the_length_is_extended_by_choice(what, tmp_path, capsys):
    run = tmp_path / "run"
    train(run, *DEPENDENT[what], "--checkpoint-every", "10")
    before = trajectory(run)
    line = refused(capsys, "train", "--resume", str(run), "--epochs", "4")
    assert line.startswith("vit-patch: --epochs must be that of the resumed run, 3, or --extend ")
    assert f"as {what} of a longer run would begin in its middle" in line
    assert trajectory(run) == before
    step = newest_step(run)
    resume(run, "--epochs", "4", "--extend")
    said = " ".join(capsys.readouterr().out.split())
    assert f"From step {step} on, {what} are those of a run of 4 epochs" in said
    assert RunFolder(run).read_result()["n_steps"] == 4 * 7
    (extension,) = RunFolder(run).extensions
    assert extension["step"] == step
    assert " and ".join(extension["dependent"]) == what


@pytest.mark.long
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--epochs", "2"], "--epochs must be that of the resumed run, 3 or more, got 2"),
        (["--seconds", "5"], "--seconds must be that of the resumed run, None, got 5.0"),
        (["--extend"], "--extend is for more epochs or seconds than the run had"),
        (["--epochs", "3"], "--resume must be an unfinished run, or be extended by more epochs"),
        ([], "--resume must be an unfinished run, or be extended by more epochs or seconds, got"),
        # These are the defaults, but not those of the run.
        (["--epochs", "4", "--batch-size", "32"], "--batch-size must be that of the resumed run, "),
        (["--epochs", "4", "--agent", "paper"], "--agent must be that of the resumed run, random"),
    ],
)
def test_nothing_else_is_changed(args, message, random_run, capsys):
    assert message in refused(capsys, "train", "--resume", str(random_run), *args)


@pytest.mark.long
def test_the_default_number_of_epochs_is_a_number_like_any_other(tmp_path):
    train(tmp_path / "run", "--agent", "random", "--epochs", "19", "--dim", "8")
    resume(tmp_path / "run", "--epochs", "20")
    assert RunFolder(tmp_path / "run").options.env.epochs == 20


def test_a_new_run_is_not_extended(tmp_path, capsys):
    args = [*TINY_OPTIONS, "--extend", "--out", str(tmp_path / "run")]
    assert "--extend is for a run to --resume, got none" in refused(capsys, "train", *args)


@pytest.fixture(scope="module")
def random_run(tmp_path_factory):
    """A finished run, which is not changed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(out, "--agent", "random")
    return out


@pytest.mark.long
def test_a_run_needs_its_agents_file_no_more(tmp_path, capsys):
    made = tmp_path / "made.zip"
    small = [*TINY_OPTIONS, "--observation", "none+run", "--epochs", "1", "--reward", "validation"]
    main(["pretrain", *small, "--episodes", "2", "--out", str(made)])
    copy = tmp_path / "agent.zip"
    shutil.copy(made, copy)
    words = ["--agent", str(copy), "--observation", "none+run"]
    run = stopped(tmp_path / "run", *words)
    copy.write_bytes(b"another file")
    resume(run)
    train(tmp_path / "whole", "--agent", str(made), "--observation", "none+run")
    assert trajectory(run) == trajectory(tmp_path / "whole")
    main(["evaluate", str(run)])


@pytest.mark.long
def test_a_run_needs_the_run_it_follows_no_more(tmp_path, random_run):
    followed = shutil.copytree(random_run, tmp_path / "followed")
    words = ["--agent", "matched", "--follow", str(followed)]
    run = stopped(tmp_path / "run", *words)
    shutil.rmtree(followed)
    resume(run)
    train(tmp_path / "whole", "--agent", "matched", "--follow", str(random_run))
    assert trajectory(run) == trajectory(tmp_path / "whole")
    train(run, "--agent", "random", "--overwrite")
    assert not (run / "followed" / "result.json").exists()


def test_a_file_that_cannot_be_copied_is_named(tmp_path, capsys, random_run):
    words = ["--agent", "matched", "--follow", str(tmp_path / "nowhere")]
    line = refused(capsys, "train", *TINY_OPTIONS, *words, "--out", str(tmp_path / "run"))
    assert str(tmp_path / "nowhere") in line


def test_a_damaged_run_is_not_extended(random_run, tmp_path, capsys):
    run = shutil.copytree(random_run, tmp_path / "run")
    config = run / "config.json"
    config.write_text(config.read_text().replace('"heads": 2', '"heads": 4'))
    line = refused(capsys, "train", "--resume", str(run), "--epochs", "4")
    assert "damaged: config.json differs from its checksum in result.json" in line
    assert RunFolder(run).is_finished


@pytest.mark.long
def test_the_recorded_command_of_an_extended_run_is_that_of_a_new_one(tmp_path, capsys):
    run = tmp_path / "run"
    train(run, "--agent", "quadratic", "--epochs", "2")
    resume(run, "--epochs", "3", "--extend")
    config = json.loads((run / "config.json").read_text())
    assert "--extend" not in config["command"]
    assert not config["options"]["extend"]


@pytest.mark.long
def test_a_run_that_replaces_the_one_it_takes_its_agent_from(tmp_path):
    run = tmp_path / "run"
    words = ["--agent", "bandit", "--observation", "none+run", "--reward", "validation"]
    train(run, *words)
    before = (run / "agent.zip").read_bytes()
    again = ["--agent", str(run / "agent.zip"), *words[2:], "--agent-learns"]
    train(run, *again, "--overwrite")
    assert (run / "given_agent.zip").read_bytes() == before
    assert RunFolder(run).is_finished


@pytest.mark.long
@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("name", ["followed", "3_epochs"])
def test_nothing_is_written_through_links(kind, name, random_run, tmp_path, capsys):
    run = shutil.copytree(random_run, tmp_path / "run")
    outside = shutil.copytree(random_run, tmp_path / "outside")
    before = {path: path.read_bytes() for path in (*run.iterdir(), *outside.iterdir())}
    if kind == "link":
        (run / name).symlink_to(outside)
    else:
        (run / name).touch()
    if name == "followed":
        args = ["train", *TINY_OPTIONS, "--agent", "random", "--out", str(run), "--overwrite"]
    else:
        args = ["train", "--resume", str(run), "--epochs", "4"]
    line = refused(capsys, *args)
    assert f"expected a folder or nothing in {run / name}, got a {kind}" in line
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.long
def test_results_that_were_kept_are_removed_with_the_run(tmp_path):
    run = tmp_path / "run"
    train(run, "--agent", "random", "--epochs", "1")
    resume(run, "--epochs", "2")
    assert (run / "1_epochs").is_dir()
    train(run, "--agent", "random", "--overwrite")
    assert not (run / "1_epochs").exists()


@pytest.mark.long
def test_extensions_that_are_none_change_nothing(tmp_path, capsys):
    run = stopped(tmp_path / "run", "--agent", "random")
    config = json.loads((run / "config.json").read_text())
    none = {"name": "epochs", "before": 3, "after": 3, "dependent": [], "step": 3}
    (run / "config.json").write_text(json.dumps({**config, "extensions": [none]}))
    resume(run)
    train(tmp_path / "whole", "--agent", "random")
    assert course(run) == course(tmp_path / "whole")


@pytest.mark.long
def test_what_is_typed_counts_though_it_is_the_default(tmp_path, random_run):
    run = stopped(tmp_path / "run", "--agent", "random", "--checkpoint-every", "5")
    options, _ = resumed_options(
        parse(["train", "--resume", str(run), "--checkpoint-every", "5min"])
    )
    assert options.checkpoint_every == "5min"
    options, _ = resumed_options(parse(["train", "--resume", str(run)]))
    assert options.checkpoint_every == "5"
