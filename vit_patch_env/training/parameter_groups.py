"""Groups of parameters with learning rates and weight decays of their own."""

from torch import Tensor, nn

from vit_patch_env.training.model_layers import model_layers
from vit_patch_env.training.optimizers import Group


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    decay_norms: bool = True,
    layer_decay: float = 1.0,
) -> list[Group]:
    """The groups of a model's parameters, without those that are frozen, in their order.

    Args:
        model: with `layer_of` and `n_layers` if `layer_decay` is not 1.
        learning_rate: of the last layer.
        weight_decay: of matrices, and of all else unless excluded.
        decay_norms: whether weight decay also applies to what `is_matrix` excludes.
        layer_decay: factor of the learning rate from each layer to the one before it, in (0, 1]
            (Clark et al. 2020, https://arxiv.org/abs/2003.10555).

    Raises:
        ArgumentError: for a model without layers.
    """
    groups: dict[tuple[float, float], Group] = {}
    layers = None if layer_decay == 1 else model_layers(model, "layer_decay", layer_decay)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate
        if layers is not None:
            rate *= layer_decay ** (layers.n_blocks + 1 - layers.of(name))
        decay = weight_decay if decay_norms or is_matrix(name, parameter) else 0.0
        group = groups.setdefault((rate, decay), Group(params=[], lr=rate, weight_decay=decay))
        group["params"].append(parameter)
    return list(groups.values())


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a matrix product or a convolution.

    Biases, scales of norms, positions and class tokens are not: they have one dimension, or are not
    a layer's `weight`.
    """
    return parameter.dim() > 1 and name.endswith("weight") and "position" not in name
