"""`stopping`: the first signal requests a stop, the second ends the process."""

import signal
import threading

import pytest

from vit_patch_env.experiments.process.signals import stopping


def test_a_second_signal_ends_the_process():
    before = signal.getsignal(signal.SIGTERM)
    requests = []
    with stopping(lambda: requests.append(1)) as received:
        signal.raise_signal(signal.SIGTERM)
        assert (requests, received) == ([1], [signal.SIGTERM])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping(lambda: pytest.fail("stop requested")) as received:
            signal.raise_signal(signal.SIGINT)
        assert not received
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_not_changed_in_other_threads():
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def run():
        with stopping(lambda: None):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
