"""Forked processes: a parent's threads do not exist in them, and must not be waited for."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.vec_env import SubprocVecEnv

from tests.conftest import TINY
from vit_patch_env import ViTPatchSelectEnv, load_dataset

pytestmark = [
    # Python 3.12 warns of every fork of a process with threads.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.usefixtures("two_threads", "parent_trained", "no_waiting"),
]

FORK = multiprocessing.get_context("fork")
ALL = np.ones(16, dtype=np.int8)
SECONDS = 40
"""After which a child is taken to hang; they take less than a second."""


@pytest.fixture(scope="module")
def parent_trained():
    """This process has trained with two threads, which forked ones do not have."""
    trained(ViTPatchSelectEnv(**TINY), n_steps=2)


@pytest.fixture
def no_waiting():
    """A test that waits for a child that hangs fails, and the child is ended."""

    def end(_signal, _frame):
        for process in multiprocessing.active_children():
            process.kill()
        raise TimeoutError(f"a child has not answered within {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def make(**more):
    return gym.make("ViTPatchSelect-v0", **TINY, **more).unwrapped


def trained(env, n_steps):
    env.reset(seed=0)
    return [env.step(ALL)[1] for _ in range(n_steps)]


def summed():
    """An operation that torch does with all its threads."""
    return torch.ones(10**6).sum().item()


def in_child(function, context=FORK):
    """What a function returns in a process of its own."""
    answers = context.SimpleQueue()
    process = context.Process(target=answer, args=(answers, function))
    process.start()
    process.join()
    assert process.exitcode == 0
    return answers.get()


def answer(answers, function):
    answers.put(function())


def step_rewards():
    return trained(make(), n_steps=2)


def evaluated():
    env = make()
    env.reset(seed=0)
    return tuple(env.evaluate("val"))


def saved_and_loaded(path):
    env = make()
    trained(env, n_steps=1)
    env.save(path)
    again = make()
    again.load(path)
    return again.step(ALL)[1]


USES = {
    "an operation of torch": summed,
    "load_dataset": lambda: load_dataset("digits", image_size=32).channel_mean,
    "step": step_rewards,
    "evaluate": evaluated,
    "max_steps": lambda: make(budget="flops").max_steps,
}


@pytest.mark.long
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_forked_child_does_what_its_parent_does(use):
    assert in_child(use) == pytest.approx(use(), rel=1e-5)


@pytest.mark.long
def test_a_forked_child_saves_and_loads(tmp_path):
    path = tmp_path / "run"
    assert in_child(partial(saved_and_loaded, path)) == pytest.approx(saved_and_loaded(path), 1e-5)


@pytest.mark.long
def test_a_child_has_the_parents_environment():
    env = make()
    env.reset(seed=0)
    assert in_child(lambda: env.step(ALL)[1]) == pytest.approx(env.step(ALL)[1])
    assert in_child(lambda: env.evaluate("val").loss) == pytest.approx(env.evaluate("val").loss)


@pytest.mark.long
def test_gymnasiums_workers_answer_before_a_reset():
    envs = gym.make_vec(
        "ViTPatchSelect-v0", num_envs=2, vectorization_mode="async", budget="flops", **TINY
    )
    assert envs.get_attr("max_steps") == (make(budget="flops").max_steps,) * 2
    envs.reset(seed=0)
    envs.close()


def test_stable_baselines_forked_workers_answer_before_a_reset():
    envs = SubprocVecEnv([make, make], start_method="fork")
    assert envs.get_attr("budget_steps") == [make().budget_steps] * 2
    envs.seed(0)
    envs.reset()
    envs.step(np.stack([ALL, ALL]))
    envs.close()


def test_a_process_that_multiprocessing_does_not_know():
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os._exit(0 if summed() == 10**6 and torch.get_num_threads() == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_of_a_child():
    def child():
        torch.set_num_threads(2)
        summed()
        process = FORK.Process(target=summed)
        process.start()
        process.join(SECONDS / 2)
        code = process.exitcode
        process.kill()
        return code

    assert in_child(child) == 0


@pytest.mark.long
def test_a_fork_of_another_thread():
    answers = []

    def run():
        summed()
        answers.append(in_child(step_rewards))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert answers == [pytest.approx(step_rewards(), rel=1e-5)]


@pytest.mark.long
def test_a_forked_child_has_one_thread_and_may_take_more():
    assert in_child(torch.get_num_threads) == 1

    def with_two():
        torch.set_num_threads(2)
        return step_rewards(), torch.get_num_threads()

    assert in_child(with_two) == (pytest.approx(step_rewards()), 2)


def test_the_parent_goes_on_with_its_threads_and_its_run():
    env, interrupted = make(), make()
    rewards = trained(env, n_steps=4)
    again = trained(interrupted, n_steps=2)
    in_child(summed)
    assert torch.get_num_threads() == 2
    again += [interrupted.step(ALL)[1] for _ in range(2)]
    assert again == rewards


@pytest.mark.long
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_other_children_have_all_threads(method, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code = f"""
import multiprocessing
from importlib import import_module
import torch

if __name__ == "__main__":
    context = multiprocessing.get_context("{method}")
    context.set_forkserver_preload(["vit_patch_env.env"])
    with context.Pool(1, import_module, ["vit_patch_env.env"]) as pool:
        print(pool.apply(torch.get_num_threads))
"""
    assert output(code) == "2"


@pytest.mark.long
def test_a_child_may_be_the_first_to_import_the_package(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    code = """
import multiprocessing
import torch

def child():
    import vit_patch_env
    grandchild()
    run(grandchild)

def grandchild():
    print(torch.ones(10**6).sum().item(), torch.get_num_threads(), flush=True)

def run(function):
    process = multiprocessing.get_context("fork").Process(target=function)
    process.start()
    process.join()

torch.ones(10**6).sum()
run(child)
"""
    assert output(code).split() == ["1000000.0", "1"] * 2


def output(code):
    """What a script prints; when a child hangs, all its processes are ended."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            printed = process.communicate(timeout=SECONDS)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0
    return printed.strip()
