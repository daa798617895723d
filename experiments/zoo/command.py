"""`vit-patch zoo`: rl_zoo3's scripts, which know this package's environments and agents."""

import argparse
import runpy
import sys
from pathlib import Path

from gymnasium.error import DependencyNotInstalled
from rich.console import Console

from vit_patch_env import ENV_ID
from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.options.commands import ZooOptions
from vit_patch_env.experiments.process.messages import fail, require_extra
from vit_patch_env.experiments.zoo import ZOO_ENV_ID

HYPERPARAMS = Path(__file__).parent / "hyperparams"
"""A file for each algorithm, of the form of rl_zoo3's own: values by environment."""


class Zoo:
    """A script of rl_zoo3, which runs as `python -m rl_zoo3.<script>` does.

    Args:
        options: the script and its arguments.
        console: unused, as the script prints by itself; for the same signature as other commands.
    """

    def __init__(self, options: ZooOptions, console: Console) -> None:
        self.options = options

    def prepare(self) -> None:
        """Register the agents.

        Raises:
            ValueError: without rl_zoo3.
        """
        require_extra("zoo", "rl_zoo3")
        from vit_patch_env.experiments.zoo.algorithms import register

        register()

    def run(self) -> None:
        """Run the script; a value that this package refuses ends it with a line."""
        script, args = self.options.script, list(self.options.args)
        sys.argv = [f"vit-patch zoo {script}", *defaults(script, args), *args]
        try:
            runpy.run_module(f"rl_zoo3.{script}", run_name="__main__")
        except (ArgumentError, DependencyNotInstalled) as error:
            fail(str(error))  # not as an option of `vit-patch`


def defaults(script: str, args: list[str]) -> list[str]:
    """What rl_zoo3 is given besides its arguments, before these, so that they overrule it.

    Args:
        script: of rl_zoo3.
        args: the user's.

    Returns:
        The environment; to train, this package's file of values for its own environments; to show
        an agent, the folder that `train` writes to.
    """
    given = ["--env", ZOO_ENV_ID]
    if script != "train":
        return [*given, "--folder", "logs"]
    # Abbreviations are read as rl_zoo3 does; those of more options there are refused by it.
    reader = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    reader.add_argument("--algo", default="ppo")
    reader.add_argument("--env", default=ZOO_ENV_ID)
    try:
        known, _ = reader.parse_known_args(args)
    except argparse.ArgumentError:  # an option without its value, which rl_zoo3 reports
        return given
    path = HYPERPARAMS / f"{known.algo}.yml"
    if known.env in (ENV_ID, ZOO_ENV_ID) and path.is_file():
        given += ["--conf-file", str(path)]
    return given
