"""The arguments of `ViTPatchSelect-v0`, each declared once. Importing them does not need torch."""

from typing import Annotated, Any

from annotated_types import Interval

from vit_patch_env.arguments import arguments
from vit_patch_env.checks import ArgumentError, check, check_integer, named, shown
from vit_patch_env.config.data import DataConfig
from vit_patch_env.config.model import ModelConfig
from vit_patch_env.config.recipe import RecipeConfig
from vit_patch_env.config.task import AUTO, TaskConfig
from vit_patch_env.data.dataset_names import check_dataset_name
from vit_patch_env.models.model_names import is_own
from vit_patch_env.observation_text import check_layers, parse_observation

_DESIRED_SHARE = 40 / 64
"""Of the patches, by default: 40 of the paper's 64."""


@arguments
class EnvConfig(TaskConfig, RecipeConfig, ModelConfig, DataConfig):  # the first ones come last
    """The keyword arguments of `ViTPatchSelectEnv` and `gym.make("ViTPatchSelect-v0", ...)`."""

    def check(self) -> None:
        """Check the arguments that depend on each other.

        Raises:
            ArgumentError: with the name of the invalid one.
        """
        if isinstance(self.dataset, str):
            check_dataset_name(self.dataset)
        self._check_object()
        if hasattr(self.dataset, "n_tokens"):
            self._adopt_text(self.dataset.n_tokens)
        self._adopt_sizes()
        self._check_weights()
        self._adopt_preprocessing()
        if self.size[0] == self.size[1]:  # so that a size has one form, in files as well
            object.__setattr__(self, "image_size", self.size[0])
        check_integer(0, min(self.size), crop_padding=self.crop_padding)
        check(
            Annotated[int | float, Interval(ge=0, le=self.epochs)], warmup_epochs=self.warmup_epochs
        )
        parse_observation(self.observation)
        if is_own(self.model):
            check_layers(self.observation, self.depth)
        if self.observe_images is not None:
            check_integer(1, self.batch_size, observe_images=self.observe_images)
        self._check_mixing()
        self._check_optimizer()
        self._check_step()
        self._check_loss()
        if self.n_patches_desired == AUTO:
            object.__setattr__(self, "n_patches_desired", self.adapted["n_patches_desired"])
        if self.n_patches_desired is not None:
            check_integer(1, self.n_patches, n_patches_desired=self.n_patches_desired)
        if not isinstance(self.model, str) and self.keep_rate is not None:
            raise ArgumentError(
                "keep_rate",
                f"must be None where {named('model')} is an object, got {self.keep_rate}",
            )

    def _adopt_preprocessing(self) -> None:
        """Set what was not given of mean, std and interpolation: as for the weights."""
        names = [one for one in ("mean", "std", "interpolation") if getattr(self, one) is None]
        if names and self.starts_from_weights:
            from vit_patch_env.models.weights.preprocessing import preprocessing_of  # needs torch

            own = preprocessing_of(self.model, self.weights)
            for name in names:
                object.__setattr__(self, name, getattr(own, name))
        if self.interpolation is None:
            object.__setattr__(self, "interpolation", "bilinear")

    def _adopt_text(self, n_tokens: int) -> None:
        """Set what texts leave no choice of: a row of tokens, each a patch, and no augmentation.

        Raises:
            ArgumentError: for an argument that would change images.
        """
        of_texts = {
            "image_size": (1, n_tokens), "patch_size": 1, "augment": "none", "crop_padding": 0,
            "flip": None, "random_erasing": 0.0, "mixup": 0.0, "cutmix": 0.0, "mean": None,
            "std": None,
        }  # fmt: skip
        for name, value in of_texts.items():
            given = getattr(self, name)
            if given not in (value, getattr(type(self), name)):
                raise ArgumentError(
                    name,
                    f"must be {value} where {named('dataset')} is of texts, got {shown(given)}",
                )
            object.__setattr__(self, name, value)

    @property
    def adapted(self) -> dict[str, Any]:
        """The defaults that follow from other values."""
        n_desired = max(round(_DESIRED_SHARE * self.n_patches), 1)
        return {"n_patches_desired": n_desired, **self.default_sizes}
