"""Agents for MultiBinary environments; they know the Gymnasium API and nothing of the ViT."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
