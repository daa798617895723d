"""Files that are written atomically, and states with a checksum."""

import os
import pickle
import stat

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.faults.disks import damaged, small_disk
from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.system.files import load_state, remove_partial, replacing, save_state

STATE = {
    "number": 2**127, "nothing": None, "text": "ε", "items": [1.5, (True, float("inf"))],
    "tensor": torch.arange(6).view(2, 3), 3: {"bf16": torch.ones(2, dtype=torch.bfloat16)},
}  # fmt: skip


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_a_loaded_state_equals_the_saved_one(tmp_path):
    save_state(tmp_path / "state", STATE)
    loaded = load_state(tmp_path / "state")
    assert torch.equal(loaded.pop("tensor"), STATE["tensor"])
    assert torch.equal(loaded[3]["bf16"], STATE[3]["bf16"])
    rest = {name: value for name, value in STATE.items() if name not in ("tensor", 3)}
    assert {name: value for name, value in loaded.items() if name != 3} == rest


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "state"
    save_state(path, STATE)
    content = path.read_bytes()
    for damage in damaged(content, 20, 200, np.random.default_rng(0)):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=f"^expected [^\n]* in {path}, got [^\n]*$"):
            load_state(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=f"expected a saved state in {path}, got: "):
            load_state(path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_patch_env.system.files._HEADER", b"vit-patch-env state\n\0\0\0\7")
    save_state(tmp_path / "state", STATE)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"expected a state of version 2 in .*, got 7"):
        load_state(tmp_path / "state")


@pytest.mark.parametrize("content", [b"", bytes(1000)])
def test_files_of_version_1_are_refused_with_the_reason(content, tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"vit-patch-env state\n\0\0\0\1" + content)
    message = (
        rf"^expected a state of version 2 in {path}, got 1, written by vit-patch-env before 0\.2: "
        r"resume it with that version$"
    )
    with pytest.raises(ValueError, match=message):
        load_state(path)
    with pytest.raises(ValueError, match=message):
        ViTPatchSelectEnv(**TINY).load(path)


def test_no_code_in_a_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_state(tmp_path / "state", Attack())  # with a valid checksum
    with pytest.raises(ValueError, match="expected plain data and tensors"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "attacked").exists()
    pickle.loads(pickle.dumps(Attack()))  # what an ordinary loader would have done
    assert (tmp_path / "attacked").exists()


def test_a_file_is_replaced_atomically(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_text("whole")
        assert path.read_text() == "before"
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("room", [0, 1, 100_000, 700_000])
def test_a_disk_that_fills_up_while_writing_is_an_oserror(room, tmp_path):
    large = {"large": [torch.zeros(400_000), torch.zeros(10)]}
    try:
        with small_disk(tmp_path / "disk", megabytes=1) as disk:
            save_state(disk / "state", {"before": 1})
            (disk / "ballast").write_bytes(bytes(900_000 - room))
            with pytest.raises(OSError, match="No space left on device"):
                save_state(disk / "state", large)
            assert load_state(disk / "state") == {"before": 1}
            assert {path.name for path in disk.iterdir()} == {"state", "ballast"}
    except PermissionError as error:
        pytest.skip(str(error))


def test_files_have_the_permissions_of_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_state(tmp_path / "state", STATE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_its_target_unchanged(tmp_path):
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "link").symlink_to(target)
    save_state(tmp_path / "link", STATE)
    assert target.read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".state.0123456789abcdef.tmp").write_text("half")
    (tmp_path / "mine.tmp").write_text("mine")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]
