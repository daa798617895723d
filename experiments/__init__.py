"""Experiments with ViTPatchSelect-v0: the command line, a monitor and checkpoints for scripts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
