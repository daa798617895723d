"""Forked processes use torch with one thread, and never wait for threads of their parent.

A forked process inherits the state of OpenMP, which torch computes with, but not its threads: the
first operation on several threads would wait for them forever. Importing this module protects the
processes that are forked from here on. The package imports it first.
"""

import ctypes
import multiprocessing
import os
import sys

_PAUSE_HARD = 2
"""The kind of pause that ends the threads: `omp_pause_hard` in OpenMP's omp.h."""


def _end_threads() -> None:
    """End OpenMP's threads of the thread that forks; its next operation starts them again.

    A child with one thread does not wait for them anyway. This lets it take more.
    """
    if "torch" not in sys.modules:
        return
    libraries = ctypes.CDLL(None)
    pause = getattr(libraries, "omp_pause_resource_all", None)  # since OpenMP 5.0
    # LLVM's and Intel's OpenMP handle forks, and would end the threads of all threads.
    if pause is not None and not hasattr(libraries, "__kmpc_fork_call"):
        pause(_PAUSE_HARD)


def _use_one_thread() -> None:
    """Forked processes are workers beside others: each has one thread."""
    if "torch" in sys.modules and not _is_of_fork_server():
        sys.modules["torch"].set_num_threads(1)


def _is_of_fork_server() -> bool:
    """Whether this process was forked just now by multiprocessing's fork server.

    The server never computes, and its processes have all threads, like those that are spawned. They
    learn only later that they have a parent process, so that processes they fork differ from them.
    """
    server = any("multiprocessing.forkserver" in argument for argument in sys.orig_argv)
    return server and multiprocessing.parent_process() is None


def _was_forked() -> bool:
    """Whether multiprocessing forked this process before it imported this module."""
    kind = getattr(multiprocessing.context, "ForkProcess", ())  # not on Windows
    return isinstance(multiprocessing.current_process(), kind)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_use_one_thread)
    if _was_forked():
        _use_one_thread()
    else:  # where threads do not exist, ending them would wait for them as well
        os.register_at_fork(before=_end_threads)
