"""Pictures of a training run: images with their dropped patches, the observation, and curves."""

from vit_patch_env.pictures.frame import Curve, Frame, draw_frame
from vit_patch_env.pictures.of_episode import draw_episode
from vit_patch_env.pictures.window import Window

__all__ = ["Curve", "Frame", "Window", "draw_episode", "draw_frame"]
