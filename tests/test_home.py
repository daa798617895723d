"""The user's folders where there is no home, or none that can be written."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from vit_patch_env.checks import InputError
from vit_patch_env.system import home
from vit_patch_env.system.cache import cache_dir
from vit_patch_env.system.home import is_usable, private_folder, usable_home

NAMES = ("HOME", "XDG_CACHE_HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "MPLCONFIGDIR")


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without a passwd entry, a name and a home."""

    def getpwuid(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / f"vit-patch-env-{os.getuid()}"


def test_without_a_home_the_cache_is_in_a_private_temporary_folder(nobody, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cache_dir() == nobody / ".cache" / "vit-patch-env"
    assert nobody.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in tmp_path.iterdir()] == [nobody.name]  # and no folder called ~


def test_libraries_find_a_home_and_a_name(nobody):
    before = dict(os.environ)
    with usable_home(os.environ):
        assert Path.home() == nobody
        assert os.environ["LOGNAME"] == str(os.getuid())
        assert cache_dir() == nobody / ".cache" / "vit-patch-env"
    assert dict(os.environ) == before


def test_a_home_that_cannot_be_written_is_left_as_it_is(nobody, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nothing")  # where not even root can make a folder
    monkeypatch.setattr(home, "is_usable", lambda folder: folder.is_relative_to(nobody))
    with usable_home(os.environ):
        assert os.environ["HOME"] == "/proc/nothing"
        assert cache_dir() == nobody / ".cache" / "vit-patch-env"
        assert os.environ["MPLCONFIGDIR"] == str(nobody / "matplotlib")


def test_folders_that_are_given_are_used(nobody, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "somebody")
    before = dict(os.environ)
    with usable_home(os.environ):
        assert dict(os.environ) == before
    monkeypatch.setenv("XDG_CACHE_HOME", "/given")
    assert cache_dir() == Path("/given/vit-patch-env")
    assert not nobody.exists()


@pytest.mark.parametrize("planted", ["link", "file", "open to others"])
def test_a_private_folder_that_another_user_may_have_made_is_refused(planted, nobody, tmp_path):
    if planted == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        nobody.symlink_to("elsewhere")
    elif planted == "file":
        nobody.touch(mode=0o600)
    else:
        nobody.mkdir()
        nobody.chmod(0o777)
    with pytest.raises(InputError, match="set HOME, or XDG_CACHE_HOME"):
        private_folder()


def test_what_can_be_made_is_usable(tmp_path):
    (tmp_path / "file").touch()
    assert is_usable(tmp_path / "new" / "folder")
    assert not is_usable(tmp_path / "file" / "folder")
    assert not is_usable(Path("~/.cache"))
