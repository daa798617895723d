"""The connection of a command to a Ray cluster."""

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from vit_patch_env.checks import ArgumentError
from vit_patch_env.experiments.process.messages import require_extra

_ANSWERS = 5.0
"""Seconds that a cluster has to answer."""

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "(?s).*"}
"""Ray's usage statistics are off, and what it logs of nodes is not printed."""


class Connection:
    """This process's connection to a Ray cluster, which may be there already.

    Args:
        address: of the cluster, `auto` for the one that this machine is a node of.

    Attributes:
        ray: the module, connected until `close`.

    Raises:
        InputError: without Ray.
        ArgumentError: if there is no such cluster.
    """

    ray: ModuleType

    def __init__(self, address: str) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        require_extra("ray", "ray")
        import ray

        self.ray = ray
        self._is_own = not ray.is_initialized()
        if self._is_own:
            _check_answers(address)
            with _same_signals():
                try:
                    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
                except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                    raise _no_cluster(address, error) from error
        self._known = self.nodes()

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes that are alive, by their ids, each as Ray describes it."""
        return {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}

    def lost(self) -> list[str]:
        """The names of the nodes that have been lost since the last call."""
        before, self._known = self._known, self.nodes()
        gone = before.keys() - self._known.keys()
        return sorted(before[one]["NodeManagerHostname"] for one in gone)

    def close(self) -> None:
        """Disconnect, if this object has connected."""
        if self._is_own:
            self.ray.shutdown()


def _check_answers(address: str) -> None:
    """Refuse a cluster that does not answer, for which Ray would wait for minutes."""
    found = _of_this_machine() if address == "auto" else address
    host, colon, port = found.rpartition(":")
    if not colon or "/" in found:
        raise ArgumentError("ray", f"must be auto or <host>:<port>, got {found}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _of_this_machine() -> str:
    """The address of the cluster that this machine was last made a node of, as Ray finds it.

    Raises:
        ArgumentError: if there is none.
    """
    from ray._private.services import canonicalize_bootstrap_address  # has no public name

    try:
        found: str = canonicalize_bootstrap_address("auto") or "local"
    except (ConnectionError, ValueError) as error:
        raise _no_cluster("auto", error) from error
    return found


def _no_cluster(address: str, error: Exception) -> ArgumentError:
    reason = " ".join(str(error).split())
    if address == "auto":
        reason = "this machine is not part of one: start one with ray start --head"
    return ArgumentError("ray", f"must be the address of a Ray cluster, got {address}: {reason}")


@contextmanager
def _same_signals() -> Iterator[None]:
    """Give back the handler of SIGTERM, which Ray sets for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread, where Ray has not set one either
            signal.signal(signal.SIGTERM, before)
