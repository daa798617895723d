"""`vit-patch evaluate`: a run's test figures again, from its files, of which none is executed."""

from dataclasses import replace
from typing import Any

from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_model

from vit_patch_env.experiments.agents_by_name.factory import make_agent
from vit_patch_env.experiments.options.commands import EvaluateOptions
from vit_patch_env.experiments.runs.display import show_result
from vit_patch_env.experiments.runs.folder import AGENT, VIT, RunFolder
from vit_patch_env.experiments.runs.train import evaluate, make_env


class Evaluation:
    """A run, loaded and ready to be evaluated.

    Args:
        options: which run, and where its images and device are now.
        console: where the figures are shown.

    Raises:
        ValueError: if the folder holds no finished run or a damaged one, or its images are gone.
    """

    def __init__(self, options: EvaluateOptions, console: Console) -> None:
        self.console = console
        folder = RunFolder(options.run)
        folder.check_files(VIT, AGENT)
        result = folder.read_result()
        trained = folder.options
        changes = {"data_dir": options.data_dir, "device": options.device}
        changes = {name: value for name, value in changes.items() if value is not None}
        self.env = make_env(replace(trained.env, **changes))  # type: ignore[arg-type]
        classes = list(self.env.data.classes)
        if classes != result.get("classes"):
            raise ValueError(f"expected the run's classes {result.get('classes')}, got {classes}")
        self.env.reset(seed=trained.seed)
        try:
            load_model(self.env.episode.model, str(folder.vit))
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"expected the ViT's weights in {folder.vit}, got: {reason}"
            ) from error
        self.actions = trained.actions
        # A run that repeats another one's numbers of patches has them in its own folder too.
        follow = None if trained.follow is None else str(folder.path)
        saved = replace(trained, agent=str(folder.agent), follow=follow)
        self.agent = make_agent(saved, self.env)

    def run(self) -> dict[str, Any]:
        """Evaluate on the test images and print the figures."""
        result = {"test": evaluate(self.env, self.env.episode, self.agent, self.actions)}
        show_result(result, self.console)
        return result
