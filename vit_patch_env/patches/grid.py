"""The grid of patches that an image is cut into."""

from vit_patch_env.checks import ArgumentError, named


def patches_per_side(image_size: int, patch_size: int) -> int:
    """Number of patches along one side of a square image.

    Raises:
        ArgumentError: if image_size is not a positive multiple of patch_size.
    """
    if patch_size < 1 or image_size < patch_size or image_size % patch_size:
        raise ArgumentError(
            "image_size",
            f"must be divisible by {named('patch_size')}, got {named('image_size')} {image_size} "
            f"and {named('patch_size')} {patch_size}",
        )
    return image_size // patch_size
