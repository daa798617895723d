"""Messages of the command line, each in one line on standard error."""

import sys
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from vit_patch_env.checks import InputError, InputWarning
from vit_patch_env.experiments.options.names import option_name
from vit_patch_env.system.shown import escaped_line


def say(message: str) -> None:
    """Print a message in one line on standard error, safe for a terminal.

    Errors in writing are ignored.
    """
    line = escaped_line(" ".join(message.split()))
    with suppress(OSError, AttributeError, ValueError):  # it may be full, None or closed
        print(f"vit-patch: {line}", file=sys.stderr, flush=True)


def fail(error: Exception | str) -> NoReturn:
    """End the program with an error message in one line and status 2.

    Args:
        error: the message, or an exception. An `InputError` is reported with the options that
            the user typed: `image_size` as `--image-size`.
    """
    say(error_message(error))
    sys.exit(2)


def error_message(error: Exception | str) -> str:
    """The message of an error, with the names of arguments as on the command line."""
    return error.text(option_name) if isinstance(error, InputError) else str(error)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning in one line: the `warnings.showwarning` of the command line."""
    text = message.text(option_name) if isinstance(message, InputWarning) else str(message)
    say(f"warning: {text}")


def require_extra(name: str, module: str) -> None:
    """Import a module of an optional dependency, whose extra is named as what needs it.

    Args:
        name: of the command or the argument, and of the extra.
        module: to import.

    Raises:
        ValueError: if it cannot be imported.
    """
    try:
        import_module(module)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{name} needs the extra {name}, pip install 'vit-patch-env[{name}]', got: {reason}"
        ) from error
