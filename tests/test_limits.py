import resource

import pytest

from vit_patch_env.system import limits
from vit_patch_env.system.limits import available_cpus, available_memory, memory_limit
from vit_patch_env.system.memory import check_fits

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with the given files instead of /sys/fs/cgroup, /proc/self and /proc/meminfo."""

    def make(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    (tmp_path / "self").mkdir()
    monkeypatch.setattr(limits, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_SELF", tmp_path / "self")
    monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "meminfo")
    return make


def test_a_machine_without_limits_has_its_memory(machine):
    machine(meminfo="MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert memory_limit() > GIB
    assert available_memory() == 2048 * 1024


@pytest.mark.parametrize("path", ["/", "/user.slice/run.scope"])
def test_a_container_has_what_its_control_group_leaves(machine, path):
    folder = "cgroup" + path.rstrip("/")
    machine(
        self__cgroup=f"0::{path}\n",
        **{
            f"{folder}/memory.max": str(GIB),
            f"{folder}/memory.current": str(GIB // 2),
            f"{folder}/memory.stat": f"anon 5\ninactive_file {GIB // 4}\n",
        },
    )
    assert memory_limit() == GIB
    assert available_memory() == GIB - GIB // 4  # pages of files can be dropped


def test_a_limit_of_an_outer_group_holds_too(machine):
    machine(
        self__cgroup="0::/outer/inner\n",
        **{
            "cgroup/outer/inner/memory.max": "max",
            "cgroup/outer/memory.max": str(3 * GIB),
            "cgroup/outer/memory.current": str(GIB),
        },
    )
    assert memory_limit() == 3 * GIB
    assert available_memory() == 2 * GIB


def test_control_groups_of_version_1_are_read(machine):
    machine(
        self__cgroup="5:cpu:/x\n4:memory:/docker/1\n",
        **{
            "cgroup/memory/docker/1/memory.limit_in_bytes": str(2 * GIB),
            "cgroup/memory/docker/1/memory.usage_in_bytes": str(GIB),
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert memory_limit() == 2 * GIB
    assert available_memory() == GIB


def test_the_processs_own_limit_holds(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (GIB, GIB))
    machine(self__statm="10 5 1\n")
    assert memory_limit() == GIB
    assert available_memory() == GIB - 10 * resource.getpagesize()


def test_what_does_not_fit_into_the_container_is_refused(machine):
    machine(self__cgroup="0::/\n", **{"cgroup/memory.max": str(GIB)})
    check_fits(GIB, "images")
    with pytest.raises(
        ValueError, match=r"expected images to fit into 1\.1 GB of memory, got 2 GB"
    ):
        check_fits(2 * GIB, "images")


def test_processors_are_counted_that_may_be_used(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3, 7, 9})
    assert available_cpus() == 3
