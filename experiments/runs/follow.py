"""`vit-patch train` in several processes: what rank 0 tells the others, and what they do."""

import sys
from dataclasses import asdict

from rich.console import Console

from vit_patch_env import ViTPatchSelectEnv
from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.environment import make_env
from vit_patch_env.models.kernels.build import enable
from vit_patch_env.training.precision import own_device, resolve_device
from vit_patch_env.training.ranks import LostRankError, Ranks


def tell_others(env: ViTPatchSelectEnv, folder: RunFolder) -> None:
    """Tell the other processes, which know no more than the command line, what to train.

    Args:
        env: of the run.
        folder: of the run, which has the weights that it starts from.
    """
    weights = folder.given_weights if folder.given_weights.is_file() else None
    told = (asdict(env.config), weights, folder.compiled_attention)
    with Ranks.of_process(env.device).doing("run", *told):
        pass


class Follower:
    """Trains with the run of rank 0, which has the agent, the folder and the output.

    Args:
        options: of the command line.
        console: of the process, which stays empty.
    """

    env: ViTPatchSelectEnv

    def __init__(self, options: TrainOptions, console: Console) -> None:
        self.options = options

    def prepare(self) -> None:
        """Make the environment of rank 0; that process says what is wrong with the options."""
        device = own_device(resolve_device(self.options.env.device))
        try:
            values, weights, compiled = Ranks.of_process(device).hear().arguments  # `tell_others`
        except LostRankError:
            sys.exit(1)
        self.env = make_env(EnvConfig(**values))
        self.env.read_weights(weights)
        if compiled is not None:
            enable(compiled)

    def run(self) -> None:
        """Train until rank 0 ends."""
        self.env.reset()
