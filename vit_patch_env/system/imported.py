"""Functions that a user names by their module, on the command line or in Python."""

import importlib
import sys
from pathlib import Path
from typing import Any

from vit_patch_env.checks import ArgumentError, shown


def imported(argument: str, name: str) -> Any:
    """The function that `module:name` stands for, of the current folder or of sys.path.

    Args:
        argument: that gives the name.
        name: such as `my_losses:focal`, or `package.module:Class.method`.

    Raises:
        ArgumentError: if there is none.
    """
    module_name, colon, path = name.partition(":")
    if not (colon and path and module_name):
        raise ArgumentError(argument, f"must be module:function, got {shown(name)}")
    found = _module(argument, name, module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ArgumentError(
                argument, f"must be module:function, got {shown(name)}: {module_name} has no {path}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ArgumentError(
            argument, f"must be module:function, got {shown(name)}, which is {shown(found)}"
        )
    return found


def _module(argument: str, name: str, module_name: str) -> Any:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)  # which a console script does not have there
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ArgumentError(
            argument, f"must be module:function, got {shown(name)}: {reason}"
        ) from error
    finally:
        sys.path.remove(folder)
