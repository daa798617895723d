"""TensorBoard's event files when the disk is full."""

import warnings

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vit_patch_env.experiments.runs.event_log import EventLog


def test_points_that_cannot_be_written_are_dropped_until_the_retry(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 0})
    log = EventLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "vit_patch_env.experiments.runs.event_log.shutil.disk_usage", lambda path: usage
        )
        with pytest.warns(UserWarning, match="TensorBoard's points cannot be written .* No space"):
            log.write({"a": 1.0}, {"a": None}, step=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            log.write({"a": 2.0}, {"a": None}, step=2)  # not retried yet
    log._retry_at = 0.0
    log.write({"a": 3.0}, {"a": None}, step=3)
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [point.step for point in events.Scalars("a")] == [3]
