"""`vit-patch evaluate`: a run's test figures again, from its files."""

from dataclasses import replace
from typing import Any

from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_model

from experiments.agent_file import agent_path, read_card
from experiments.agents import agent_class
from experiments.display import show_result
from experiments.options import EvaluateOptions
from experiments.run_folder import RunFolder
from experiments.train import evaluate, make_env


class Evaluation:
    """A run, loaded and ready to be evaluated.

    Args:
        options: which run, and where its images and device are now.
        console: where the figures are shown.

    Raises:
        ValueError: if the folder holds no finished run, or its images are gone.
    """

    def __init__(self, options: EvaluateOptions, console: Console) -> None:
        self.console = console
        folder = RunFolder(options.run)
        result = folder.read_result()
        trained = folder.options
        changes = {"data_dir": options.data_dir, "device": options.device}
        changes = {name: value for name, value in changes.items() if value is not None}
        self.env = make_env(replace(trained.env, **changes))  # type: ignore[arg-type]
        classes = list(self.env.data.classes)
        if classes != result["classes"]:
            raise ValueError(f"expected the run's classes {result['classes']}, got {classes}")
        self.env.reset(seed=trained.seed)
        for path in (folder.vit, folder.agent):
            if not path.is_file():
                raise ValueError(f"expected a finished run with {path.name}, got {folder.path}")
        try:
            load_model(self.env.trainer().model, str(folder.vit))
        except SafetensorError as error:
            raise ValueError(f"expected the ViT's weights in {folder.vit}, got: {error}") from error
        self.actions = trained.actions
        # The name of a file may mean another agent by now: the run's own tells what it was.
        name = read_card(folder.agent).agent if agent_path(trained.agent) else trained.agent
        self.agent = agent_class(name).load(folder.agent, device="cpu")

    def run(self) -> dict[str, Any]:
        """Evaluate on the test images and print the figures."""
        result = {"test": evaluate(self.env, self.agent, self.actions, episode="current")}
        show_result(result, self.console)
        return result
