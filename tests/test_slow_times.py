"""What a run records about other work on its machine."""

import math
import signal
import threading

import numpy as np
import pandas as pd
import pytest

from tests.test_resume import stopped
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.run_folder.tables import (
    METRICS,
    SELECTED,
    STEPS,
    EpochMetrics,
    RunTables,
)
from vit_patch_env.experiments.runs import train as training
from vit_patch_env.experiments.runs.epoch_sums import Clock, EpochSums
from vit_patch_env.experiments.runs.train import Run
from vit_patch_env.system.cpu_time import CpuTime, cpu_times, waiting_share

pytestmark = pytest.mark.usefixtures("flops_counted_once")


def epoch(**values):
    return EpochMetrics(**dict.fromkeys(EpochMetrics._fields, 1.0) | values)


def test_the_share_without_a_cpu_is_of_the_time_that_one_was_needed():
    before = {"1": CpuTime(1.0, 0.5)}
    assert waiting_share(before, {"1": CpuTime(4.0, 1.5)}) == 0.25
    assert waiting_share(before, {"1": CpuTime(4.0, 1.5), "2": CpuTime(4.0, 0.0)}) == 0.125
    assert math.isnan(waiting_share({}, {"1": CpuTime(4.0, 1.0)}))
    assert math.isnan(waiting_share(before, before))


def test_threads_that_have_ended_do_not_count():
    before = {"1": CpuTime(1.0, 0.5), "2": CpuTime(90.0, 1.0)}
    assert waiting_share(before, {"1": CpuTime(4.0, 1.5)}) == 0.25
    # Another thread got the number of one that has ended.
    assert waiting_share(before, {"1": CpuTime(4.0, 1.5), "2": CpuTime(0.5, 9.0)}) == 0.25


def test_threads_that_run_use_time():
    before = cpu_times()
    if not before:
        pytest.skip("the system does not have the times of threads")
    own = str(threading.get_native_id())
    while cpu_times()[own].running - before[own].running < 0.01:
        pass
    after = cpu_times()
    assert 0 <= waiting_share(before, after) <= 1


def test_epochs_count_by_their_time(tmp_path):
    tables = RunTables(tmp_path)
    for share, seconds in ((0.1, 3.0), (0.5, 1.0)):
        steps = pd.DataFrame({"n_selected": [4], "seconds": [seconds]})
        values = epoch(waiting_share=share, train_seconds=seconds)
        tables.append_epoch(values, np.ones(16), steps)
    assert tables.waiting_share() == pytest.approx(0.2)
    assert list(tables.steps()["seconds"]) == [3.0, 1.0]
    selected = pd.read_csv(tmp_path / SELECTED)
    assert selected.shape == (2, 17)
    assert (selected.drop(columns="epoch") == 1).all(axis=None)


def test_tables_that_an_earlier_version_began_keep_their_columns(tmp_path):
    tables = RunTables(tmp_path)
    tables.load_state_dict({METRICS: "epoch,train_seconds\n1,2.0\n", STEPS: "n_selected\n4\n"})
    steps = pd.DataFrame({"n_selected": [8], "seconds": [0.1]})
    tables.append_epoch(epoch(epoch=2), np.ones(16), steps)
    assert (tmp_path / STEPS).read_text() == "n_selected\n4\n8\n"
    assert (tmp_path / METRICS).read_text() == "epoch,train_seconds\n1,2.0\n2,1.0\n"
    assert math.isnan(tables.waiting_share())


@pytest.mark.long
def test_a_run_that_is_resumed_again_and_again_knows_where(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        training, "slow_share", lambda steps, accumulate, resumed_at: given.append(resumed_at) or 0
    )
    out = stopped(tmp_path / "run", "--agent", "random")
    with pytest.MonkeyPatch.context() as patch:
        end_step = Run._end_step

        def stopping(run, step):
            end_step(run, step)
            if step.step == 10:
                signal.raise_signal(signal.SIGTERM)

        patch.setattr(Run, "_end_step", stopping)
        with pytest.raises(SystemExit):
            main(["train", "--resume", str(out)])
    main(["train", "--resume", str(out)])
    ((first, second),) = given
    assert 7 <= first < second
    assert second in (10, 11)


def test_sums_of_an_earlier_version_have_steps_of_unknown_time():
    sums = EpochSums(Clock(), np.zeros(4), n_selected=[2, 3])
    state = sums.state_dict()
    del state["step_seconds"], state["rates"]
    loaded = EpochSums.from_state_dict(state)
    loaded.add(
        {"n_selected": 2, "loss": 1.0, "skipped": False}, 0.0, np.ones(4, dtype=bool), 0.5, None
    )
    assert np.isnan(loaded.step_seconds[:2]).all()
    assert loaded.step_seconds[2] == 0.5
    assert len(loaded.rates) == 3
