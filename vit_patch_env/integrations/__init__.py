"""Patch schedules for training loops of other libraries, and of users.

`hugging_face` and `lightning` have a callback each for these libraries, which are optional.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
