"""Messages of the command line, each in one line on standard error."""

import re
import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from vit_patch_env.checks import ArgumentError, InputError
from vit_patch_env.system.shown import escaped_line

_OPTION_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


def say(message: str) -> None:
    """Print a message in one line on standard error, safe for a terminal.

    Errors in writing are ignored.
    """
    line = escaped_line(" ".join(message.split()))
    with suppress(OSError):
        print(f"vit-patch: {line}", file=sys.stderr, flush=True)


def fail(error: Exception | str) -> NoReturn:
    """End the program with an error message in one line and status 2.

    Args:
        error: the message, or an exception. An `ArgumentError` is reported with the option that
            the user typed: `image_size` as `--image-size`.
    """
    say(error_message(error))
    sys.exit(2)


def error_message(error: Exception | str) -> str:
    """The message of an error, with the argument's name as on the command line."""
    if isinstance(error, ArgumentError) and _OPTION_NAME.fullmatch(error.name):
        return f"{option_name(error.name)} {error.problem}"
    return str(error)


def option_name(argument: str) -> str:
    """The option that sets an argument.

    Args:
        argument: its name in Python: `image_size`, `env.image_size`, `dqn.tau`.

    Returns:
        `--image-size`, `--image-size`, `--dqn.tau`: options of the environment have no prefix.
    """
    return "--" + argument.removeprefix("env.").replace("_", "-")


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning in one line: the `warnings.showwarning` of the command line."""
    say(f"warning: {message}")


def require_extra(command: str, module: str) -> None:
    """Import a module of an optional dependency, whose extra has the command's name.

    Raises:
        ValueError: if it cannot be imported.
    """
    try:
        import_module(module)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{command} needs the extra {command}, pip install 'vit-patch-env[{command}]', "
            f"got: {reason}"
        ) from error
