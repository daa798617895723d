"""A compiled kernel is used only if it is this user's, undamaged, and gives the right answers."""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from vit_patch_env.models.kernels import build

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None, reason="needs a C compiler"
)
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def fresh():
    build._built.cache_clear()
    yield
    build._built.cache_clear()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The file of the kernel, which a compiler has made that copies one in no time."""
    assert build.library(torch.float32) is not None
    build._built.cache_clear()
    _, of_compiler = build._command(torch.float32)
    compiled = tmp_path / "compiled.so"
    compiled.write_bytes(of_compiler.read_bytes()[: -build._DIGEST_SIZE])
    monkeypatch.setenv("CC", str(compiler(tmp_path / "cc", f'cp {compiled} "$2"')))
    assert build.library(torch.float32) is not None
    build._built.cache_clear()
    return build._command(torch.float32)[1]


def compiler(path, command):
    """A compiler that runs a command, whose first arguments are -o and the file to be written."""
    path.write_text(f'#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\n{command}\n')
    path.chmod(0o755)
    return path


def used_in_another_process(cache):
    """Whether a process that starts now computes with the kernel, and right."""
    code = """
import torch
from vit_patch_env.models.kernels.build import available
from vit_patch_env.models.kernels.cpu_attention import fused_attention
print(available(torch.float32), fused_attention(torch.zeros(1, 4, 96), 1, 1.0).sum().item())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "XDG_CACHE_HOME": str(cache.parent)},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.split() == ["True", "0.0"]


def changed(content, how):
    if how == "flipped":
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return {"truncated": content[: len(content) // 2], "empty": b"", "text": b"#!/bin/sh"}[how]


@pytest.mark.parametrize("how", ["flipped", "truncated", "empty", "text"])
def test_a_damaged_kernel_is_compiled_again(how, kept, own_cache):
    intact = kept.read_bytes()
    kept.unlink()  # this process has mapped its content
    kept.write_bytes(changed(intact, how))
    assert build.library(torch.float32) is not None
    assert kept.read_bytes() == intact


@pytest.mark.long
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_process_that_starts_with_a_damaged_kernel_computes_right(how, kept, own_cache):
    intact = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(changed(intact, how))
    assert used_in_another_process(own_cache)
    assert kept.read_bytes() == intact


def test_a_link_or_a_file_that_others_can_write_is_not_loaded(kept, tmp_path, monkeypatch):
    loaded = []
    load = build._load
    monkeypatch.setattr(build, "_load", lambda *args: loaded.append(args[0]) or load(*args))
    target = tmp_path / "planted.so"
    shutil.move(kept, target)
    kept.symlink_to(target)
    assert build.library(torch.float32) is not None
    assert not kept.is_symlink()
    build._built.cache_clear()
    kept.chmod(0o666)
    assert build.library(torch.float32) is not None
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [path.parent.parent for path in loaded] == [kept.parent] * 2  # compiled, both times


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_in_which_others_can_write_is_refused(mode, kept):
    kept.parent.chmod(mode)
    with pytest.warns(UserWarning, match="a folder that only this user can write to, got "):
        assert build.library(torch.float32) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_user_is_not_loaded(kept):
    os.chown(kept, 12345, -1)
    assert build._kept(kept, torch.float32) is None
    os.chown(kept.parent, 12345, -1)
    with pytest.warns(UserWarning, match="only this user can write"):
        assert build.library(torch.float32) is None


@pytest.mark.long
def test_a_kernel_that_computes_wrong_results_is_not_used(tmp_path, monkeypatch):
    source = tmp_path / "wrong.c"
    text = build._SOURCE.read_text()
    assert text.count("0.693359375f") == 1
    source.write_text(text.replace("0.693359375f", "0.7f"))
    monkeypatch.setattr(build, "_SOURCE", source)
    with pytest.warns(UserWarning, match="computes wrong results"):
        assert build.library(torch.float32) is None


def test_another_compiler_compiles_again(kept, tmp_path, monkeypatch):
    other = compiler(tmp_path / "other-cc", f'cp {tmp_path / "compiled.so"} "$2"')
    monkeypatch.setenv("CC", str(other))
    n_before = len(list(kept.parent.glob("*.so")))
    assert build.library(torch.float32) is not None
    assert len(list(kept.parent.glob("*.so"))) == n_before + 1


def test_the_compiler_does_not_hear_signals_to_the_group(kept, tmp_path, monkeypatch):
    session = tmp_path / "session"
    command = f"""cut -d" " -f6 /proc/$$/stat > {session}; cp {tmp_path / "compiled.so"} "$2\""""
    monkeypatch.setenv("CC", str(compiler(tmp_path / "other-cc", command)))
    assert build.library(torch.float32) is not None
    assert int(session.read_text()) != os.getsid(0)


def test_a_command_that_is_none_is_named(monkeypatch):
    monkeypatch.setenv("CC", "gcc 'x")
    with pytest.warns(UserWarning, match=r"CC must be a command, got \"gcc 'x\": No closing"):
        assert build.library(torch.float32) is None


def test_it_can_be_disabled_in_this_process():
    build.enable(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not build.available(torch.float32)
    finally:
        build.enable(True)
    assert build.available(torch.float32)
