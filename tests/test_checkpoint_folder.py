"""When checkpoints are written, which are kept, and which are used to resume."""

import shutil
import warnings

import pytest

from tests.interrupted_runs import new_agent, stopped_twice
from vit_patch_env.experiments import RunCheckpoint
from vit_patch_env.experiments.checkpoints.folder import CheckpointFolder
from vit_patch_env.experiments.checkpoints.interval import CheckpointInterval, parse_interval
from vit_patch_env.system.files import save_state


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """The checkpoint folder of a run that was stopped twice."""
    return stopped_twice(tmp_path_factory.mktemp("stopped"))


@pytest.fixture
def stopped(stopped_run, tmp_path):
    return shutil.copytree(stopped_run, tmp_path / "stopped")


@pytest.mark.long
def test_a_checkpoint_every_few_steps_and_the_newest_are_kept(tmp_path):
    agent, _ = new_agent("random")
    checkpoint = RunCheckpoint(tmp_path, every="4", checkpoints_kept=2)
    agent.learn(18, callback=checkpoint)
    assert [path.name for path in checkpoint.folder.files] == [
        "step-000000000016.ckpt", "step-000000000012.ckpt"
    ]  # fmt: skip
    assert checkpoint.n_written == 4
    assert checkpoint.save_seconds > 0


def test_checkpoints_after_a_time(tmp_path):
    agent, _ = new_agent("random")
    checkpoint = RunCheckpoint(tmp_path, every="0.001s")
    agent.learn(5, callback=checkpoint)
    assert checkpoint.n_written == 5


def test_a_failed_write_is_a_warning_and_retried(tmp_path, monkeypatch):
    agent, _ = new_agent("random")
    checkpoint = RunCheckpoint(tmp_path, every="5")
    save, fails = checkpoint.folder.save, [False, True, True, False, False]

    def unreliable(step, state, **more):
        if fails.pop(0):
            raise OSError(28, "No space left on device")
        save(step, state, **more)

    monkeypatch.setattr(checkpoint.folder, "save", unreliable)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        agent.learn(26, callback=checkpoint)
    assert ["at step 10" in str(caught[0].message), "at step 15" in str(caught[1].message)] == [
        True, True
    ]  # fmt: skip
    assert (checkpoint.n_written, checkpoint.n_failed) == (3, 2)
    assert [path.stem[-2:] for path in checkpoint.folder.files] == ["25", "20", "05"]


def test_a_damaged_checkpoint_is_skipped_for_an_older_one(stopped):
    newest, older = CheckpointFolder(stopped).files
    newest.write_bytes(newest.read_bytes()[:-1])
    checkpoint = RunCheckpoint(stopped, checkpoints_kept=1, resume=True)
    with pytest.warns(UserWarning, match=f"using an older checkpoint: .*{newest}"):
        checkpoint.prepare()
    assert checkpoint.resumed_steps <= 6
    assert checkpoint.folder.files == [older]  # so that new ones are not sorted after the damaged
    older.write_bytes(b"")
    with pytest.raises(ValueError, match=r"^no checkpoint in .* is intact: [^\n]*$"):
        RunCheckpoint(stopped, resume=True).prepare()


def test_checkpoints_are_kept_without_resume(stopped):
    with pytest.raises(ValueError, match="must not contain checkpoints, or resume must be True"):
        RunCheckpoint(stopped).prepare()
    with pytest.raises(ValueError, match="must not contain checkpoints, or resume must be True"):
        new_agent("random")[0].learn(3, callback=RunCheckpoint(stopped))
    assert len(CheckpointFolder(stopped).files) == 2


def test_the_constructor_reads_and_removes_nothing(stopped):
    newest, older = CheckpointFolder(stopped).files
    newest.write_bytes(b"")
    older.write_bytes(b"")
    checkpoint = RunCheckpoint(stopped, resume=True)
    assert (checkpoint.resumed_steps, checkpoint.saved_steps) == (None, 0)
    assert checkpoint.folder.files == [newest, older]


def test_prepare_sets_the_steps_once(stopped):
    checkpoint = RunCheckpoint(stopped, resume=True)
    checkpoint.prepare()
    steps = int(checkpoint.folder.files[0].stem[-3:])
    assert checkpoint.resumed_steps == checkpoint.saved_steps == steps
    assert checkpoint.restoring
    for path in checkpoint.folder.files:
        path.unlink()
    checkpoint.prepare()  # reads nothing again
    assert checkpoint.resumed_steps == steps


def test_clear_removes_only_checkpoints(stopped):
    for name in ("precious.pt", "step-1.txt", ".mine.tmp"):
        (stopped / name).write_text("mine")
    (stopped / ".step-000000000001.ckpt.0123456789abcdef.tmp").write_text("half")
    CheckpointFolder(stopped).clear()
    assert {path.name for path in stopped.iterdir()} == {"precious.pt", "step-1.txt", ".mine.tmp"}


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path):
    checkpoint = RunCheckpoint(tmp_path / "none", resume=True)
    assert checkpoint.resumed_steps is None
    new_agent("random")[0].learn(3, callback=checkpoint)
    assert checkpoint.resumed_steps is None
    assert not (tmp_path / "none").exists()


def test_checkpoints_of_another_run_are_refused(tmp_path):
    agent, _ = new_agent("random")
    checkpoint = RunCheckpoint(tmp_path, every="2", run_config={"seed": 1, "dim": 16})
    agent.learn(3, callback=checkpoint)
    other = RunCheckpoint(tmp_path, run_config={"seed": 2, "dim": 16}, resume=True)
    with pytest.raises(ValueError, match=r"got one of another: seed 1 instead of 2$"):
        other.prepare()


def test_checkpoints_of_version_1_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vit_patch_env.system.files._HEADER", b"vit-patch-env state\n\0\0\0\1")
        for step in (3, 6):
            save_state(tmp_path / f"step-{step:012}.ckpt", {"n_steps": step, "belongs_to": None})
    checkpoint = RunCheckpoint(tmp_path, resume=True)
    message = (
        rf"^expected a state of version 2 in {checkpoint.folder.files[0]}, got 1, written by "
        r"vit-patch-env before 0\.2: resume it with that version$"
    )
    with pytest.raises(ValueError, match=message):  # without a warning that it is damaged
        checkpoint.prepare()
    with pytest.raises(ValueError, match=message):
        new_agent("random")[0].learn(3, callback=checkpoint)
    assert len(checkpoint.folder.files) == 2


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("500", CheckpointInterval(steps=500)),
        ("5min", CheckpointInterval(seconds=300)),
        ("0.5min", CheckpointInterval(seconds=30)),
        ("90s", CheckpointInterval(seconds=90)),
        ("never", CheckpointInterval()),
    ],
)
def test_intervals(text, interval):
    assert parse_interval(text) == interval


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "5 min", "5h", "nan", "1e9", "0s", "٣"])
def test_other_intervals_are_refused(text, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be a number of steps such as 500"):
        parse_interval(text)
    with pytest.raises(ValueError, match=r"^every must be a number of steps such as 500"):
        RunCheckpoint(tmp_path, every=text)


def test_checkpoints_kept_must_be_positive_and_the_folder_not_a_link(tmp_path):
    with pytest.raises(ValueError, match=r"checkpoints_kept must be in \[1, inf\), got 0"):
        RunCheckpoint(tmp_path, checkpoints_kept=0)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="got the link"):
        RunCheckpoint(tmp_path / "link")
