"""Whatever comes in either works or is refused in one line that says what was expected and came."""

import copy
import inspect
import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.conftest import TINY, TINY_OPTIONS
from vit_patch_env import CountAction, TopKAction, ViTPatchSelectEnv
from vit_patch_env.experiments.cli import main
from vit_patch_env.experiments.compare.results import read_comparison, read_run
from vit_patch_env.experiments.options.commands import EvaluateOptions, TrainOptions
from vit_patch_env.experiments.run_folder.folder import RunFolder
from vit_patch_env.experiments.runs.evaluate import Evaluation
from vit_patch_env.experiments.runs.resume import resumed_options
from vit_patch_env.training import compiled

FACTOR = int(os.environ.get("TRIED_MORE", "1"))
"""Factor on the number of examples of a property: `make faults` sets it."""


def tried(n_times):
    """Settings of a property that is tried so often, by default always with the same values."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=FACTOR * n_times,
        deadline=None,
        derandomize=FACTOR == 1,
        suppress_health_check=checks,
    )


NUMBERS = st.sampled_from(
    [-(10**400), -1, 0, 1, 2, 3, 7, 8, 64, 10**15, 10**30, 10**400, -1.5, -0.0, 0.5, 1.0, 1e-300,
     1e300, float("nan"), float("inf"), float("-inf"), np.int64(4), np.float32(0.25), True, False]
)  # fmt: skip
OTHERS = st.sampled_from(
    [None, "", "auto", "digits", "vit", "cuda:7", "cpu:0", "\0", "../..", "x" * 5000, b"cpu", [],
     [1], {}, {"a": 1}, (), np.arange(3), np.array(2), 1j, Ellipsis]
)  # fmt: skip
VALUES = NUMBERS | OTHERS
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner,
                                                                max_size=3),
    max_leaves=5,
)  # fmt: skip
ARGUMENTS = sorted(inspect.signature(ViTPatchSelectEnv).parameters)


def accepted(function, *args):
    """What a function returns; None if it raises a one-line error that states what was given."""
    try:
        return function(*args)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said, said
    assert any(word in said for word in ("got", "instead of", "expected", "damaged: ")), said
    return None


@tried(200)
@given(st.dictionaries(st.sampled_from(ARGUMENTS), VALUES, min_size=1, max_size=2))
def test_arguments_of_the_environment(monkeypatch, kwargs):
    # Compiling takes 10 s.
    monkeypatch.setattr(compiled, "_compiled", lambda: compiled.forward)

    def run():
        env = ViTPatchSelectEnv(**TINY | kwargs)
        env.reset(seed=0)
        _, reward, *_ = env.step(np.ones(env.n_patches, dtype=np.int8))
        assert np.isfinite(reward)
        return env

    env = accepted(run)
    assert env is None or env.steps_done == 1


@pytest.fixture(scope="module")
def running():
    env = ViTPatchSelectEnv(**TINY | {"epochs": 10**6})
    env.reset(seed=0)
    return env


class Hostile:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("no array")

    def __len__(self):
        raise KeyError("no length")


DTYPES = [
    np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64, np.longdouble, bool,
    np.complex64, object, "U3", "S2", "datetime64[s]", "timedelta64[s]", [("a", "i4")],
]  # fmt: skip


@st.composite
def arrays(draw, n=16):
    """Arrays of any type, mostly of shape (n,), and other objects."""
    odd = draw(st.sampled_from([None] * 8 + [Hostile(), {}, "1" * n, [[1], [1, 2]], [[]], 5, ()]))
    if odd is not None:
        return odd
    shape = draw(st.sampled_from([(n,)] * 6 + [(n - 1,), (1, n), (n, 1), (), (0,)]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    values = draw(st.lists(st.sampled_from([0, 1]), min_size=2 * n, max_size=2 * n))
    if draw(st.booleans()):
        values[3] = draw(st.sampled_from([2, -1, float("nan"), float("inf"), 0.5, 10**6]))
    try:
        with np.errstate(all="ignore"):
            array = np.array(values).astype(dtype)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(2 * n, dtype=dtype)
    array = array[::2] if draw(st.booleans()) else array[:n]  # not contiguous
    array = np.resize(array, shape) if array.shape != shape else array
    array.flags.writeable = draw(st.booleans())
    if dtype.kind in "biuf" and dtype.itemsize <= 8 and draw(st.integers(0, 4)) == 0:
        return torch.from_numpy(array.copy())
    return array


@tried(200)
@given(arrays())
@pytest.mark.filterwarnings("ignore")  # NumPy's of odd types and casts
def test_actions(running, action):
    before = running.steps_done
    given_action = copy.copy(action) if isinstance(action, np.ndarray) else None
    done = accepted(running.step, action)
    assert running.steps_done == before + (done is not None)
    if isinstance(action, np.ndarray):
        assert np.array_equal(action, given_action) or (action != action).any()
    if done is not None:
        assert np.isfinite(done[1])
        assert np.isfinite(done[0]).all()


@tried(100)
@given(arrays(17), st.booleans())
@pytest.mark.filterwarnings("ignore")
def test_actions_of_wrappers(running, action, counts):
    wrapped = CountAction(running) if counts else TopKAction(running)
    if counts:
        wrapped.seed_sampling(0)
    mask = accepted(wrapped.action, action)
    assert mask is None or 1 <= mask.sum() <= 16


@tried(20)
@given(VALUES, VALUES | st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2))
def test_reset_options_and_seeds(seed, options):
    env = ViTPatchSelectEnv(**TINY)

    def run():
        env.reset(seed=seed, options=options)
        return env.step(np.ones(16, dtype=np.int8))

    accepted(run)
    env.reset(seed=1, options={})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, as one of a comparison."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        main(["compare", *TINY_OPTIONS, "--out", str(root / "out"), "--seeds", "0", "--methods",
              "simple_vit", "--epochs", "1"])  # fmt: skip
    return root / "out" / "runs" / "simple_vit__0"


def evaluated(run):
    evaluation = Evaluation(EvaluateOptions(run=str(run)), Console(quiet=True))
    evaluation.prepare()
    evaluation.run()


READERS = {
    "evaluate": evaluated,
    "read_run": read_run,
    "read_comparison": lambda run: read_comparison(run.parent.parent),
    "resume": lambda run: resumed_options(TrainOptions(resume=str(run))),
    "options": lambda run: RunFolder(run).options,
    "progress": lambda run: RunFolder(run).progress(),
}


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the comparison with that run, whose files may be damaged."""
    shutil.copytree(finished.parent.parent, tmp_path / "out")
    return tmp_path / "out" / "runs" / finished.name


def paths_in(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(item, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


@pytest.mark.long
@pytest.mark.parametrize("name", ["config.json", "result.json", "../../compare.json"])
@tried(20)
@given(data=st.data())
def test_json_of_a_run_with_other_values(name, copied, data):
    path = copied / name
    original = path.read_text()
    try:
        content = json.loads(original)
        place = data.draw(st.sampled_from(list(paths_in(content))))
        path.write_text(json.dumps(changed(content, place, data.draw(JSON))))
        for reader in READERS.values():
            accepted(reader, copied)
    finally:
        path.write_text(original)


FILES = [
    "config.json", "metrics.csv", "steps.csv", "selected.csv", "result.json", "vit.safetensors",
    "agent.zip", "../../compare.json",
]  # fmt: skip


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", FILES)
@tried(8)
@given(
    kind=st.sampled_from(["cut", "flip", "empty", "missing", "folder", "noise"]),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_files_of_a_run_that_are_damaged(name, copied, kind, place, bit):
    path = copied / name
    original = path.read_bytes()
    at = int(place * len(original))
    damage = bytearray(original)
    damage[at] ^= 1 << bit
    contents = {
        "cut": original[:at], "flip": bytes(damage), "empty": b"", "noise": bytes(range(256)) * 9
    }  # fmt: skip
    try:
        if kind in contents:
            path.write_bytes(contents[kind])
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
        for reader in READERS.values():
            accepted(reader, copied)
    finally:
        if path.is_dir():
            path.rmdir()
        path.write_bytes(original)
