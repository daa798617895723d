"""PatchBandit: a contextual bandit that picks how many patches, and learns a score for each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
