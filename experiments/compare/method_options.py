"""The options of a method's run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_patch_env.config import EnvConfig
from vit_patch_env.experiments.compare.methods import Method
from vit_patch_env.experiments.options.commands import TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder


def method_options(
    method: Method, seed: int, env: EnvConfig, out: Path, followed: RunFolder | None = None
) -> TrainOptions:
    """The options of a method's run.

    Args:
        method: that the run is of.
        seed: of the run.
        env: what all runs share.
        out: the run's folder.
        followed: the finished run that this one follows, if its method follows another.

    Raises:
        ValueError: if the followed run is not finished.
    """
    changes: dict[str, Any] = {"model": method.model, "observation": method.observation}
    changes |= {"reward": method.reward, "per_image": method.per_image}
    if method.n_keep is not None:
        changes["n_patches_desired"] = method.n_keep
    if followed is not None and method.agent != "matched":
        n_keep = round(followed.read_result()["n_selected_mean"])
        changes["n_patches_desired"] = n_keep
        if method.model == "patch_dropout":
            changes["keep_rate"] = n_keep / env.n_patches
    return TrainOptions(
        agent=method.agent,
        **method.values.of_agent,
        sampling=method.sampling,
        seed=seed,
        out=str(out),
        follow=str(followed.path) if followed and method.agent == "matched" else None,
        overwrite=True,
        given=("observation",),  # whatever is the agent's default
        env=replace(env, **changes),
    )
