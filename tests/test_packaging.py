"""What is installed, and what importing it costs."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("vit_patch_env", "agents", "experiments")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("setuptools", "77", reason="building a wheel needs setuptools >= 77")
    source = tmp_path_factory.mktemp("source")
    caches = shutil.ignore_patterns("__pycache__")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=caches)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    (path,) = out.glob("*.whl")
    return path


def run(*args, cwd=None, **env):
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_setup_cfg_names_every_package_that_is_imported():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = (lines for name, lines in config["options.extras_require"].items() if name != "dev")
    lines = "\n".join((config["options"]["install_requires"], *extras))
    named = {normalized(re.split(r"[ <>=]", line)[0]) for line in lines.split("\n") if line}
    distributions = packages_distributions()
    unnamed = {
        module
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for module in imported(path)
        if module not in sys.stdlib_module_names | {"vit_patch_env"}
        and named.isdisjoint(map(normalized, distributions.get(module, [module])))
    }
    assert not unnamed


def normalized(name):
    """A distribution's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path):
    """The top-level names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.long
def test_a_wheel_installs_one_name(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"vit_patch_env"}


@pytest.mark.long
def test_a_wheel_holds_every_file_of_the_package(wheel):
    held = {
        name.removeprefix("vit_patch_env/")
        for name in zipfile.ZipFile(wheel).namelist()
        if ".dist-info/" not in name
    }
    expected = set()
    for folder in FOLDERS:
        inside = "" if folder == "vit_patch_env" else f"{folder}/"
        for path in (ROOT / folder).rglob("*"):
            linked = folder == "vit_patch_env" and path.relative_to(ROOT).parts[1] in FOLDERS
            if path.is_file() and "__pycache__" not in path.parts and not linked:
                expected.add(inside + path.relative_to(ROOT / folder).as_posix())
    assert held == expected
    assert {"py.typed", "models/kernels/cpu_attention.c", "agents/pretrained.zip"} <= held


@pytest.mark.long
def test_it_lives_beside_packages_called_agents_and_experiments(wheel, tmp_path):
    run("-m", "pip", "install", "--no-deps", "--quiet", "--target", str(tmp_path), str(wheel))
    for name in ("agents", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OTHER = True\n")
    code = (
        "import agents, experiments, vit_patch_env\n"
        "from vit_patch_env.agents import MultiOutputDQN\n"
        "from vit_patch_env.experiments import RunCheckpoint\n"
        "assert agents.OTHER and experiments.OTHER\n"
        "print(vit_patch_env.__file__, MultiOutputDQN.__module__, RunCheckpoint.__module__)"
    )
    file, *modules = run("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)).split()
    assert Path(file).is_relative_to(tmp_path)
    assert all(module.startswith("vit_patch_env.") for module in modules)


CPU_SECONDS = """
import resource, sys
{code}
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, "torch" in sys.modules)
"""


def cpu_seconds(code):
    """CPU time of a process that runs the code, and whether it needed torch."""
    seconds, torch = run("-c", CPU_SECONDS.format(code=code)).split()[-2:]
    return float(seconds), torch == "True"


def within_a_second(measure):
    """Whether one of three measurements is, as other processes slow this one down."""
    return any(measure() < 1 for _ in range(3))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["train", "--help"],
        ["--version"],
        ["trian"],
        ["train", "--epoch", "3"],
        ["train", "--epochs", "many"],
        ["--tyro-print-completion", "bash"],
    ],
)
def test_the_command_line_answers_within_a_second_and_without_torch(args):
    code = (
        "from vit_patch_env.experiments.cli import main\n"
        f"try: main({args})\n"
        "except SystemExit: pass"
    )
    needed_torch = []

    def seconds():
        used, torch = cpu_seconds(code)
        needed_torch.append(torch)
        return used

    assert within_a_second(seconds)
    assert not any(needed_torch)


@pytest.mark.long
def test_the_package_adds_less_than_a_second_to_torch():
    ours, alone = [], []

    def added():  # the least of each so far, as other processes slow them down differently
        code = "import torch, vit_patch_env; vit_patch_env.ViTPatchSelectEnv"
        ours.append(cpu_seconds(code)[0])
        alone.append(cpu_seconds("import torch")[0])
        return min(ours) - min(alone)

    assert within_a_second(added)
