"""As many threads compute as the process may use, or as somebody says.

If one of these fails, a container with a quota of two processors on a machine of 64 computes on 64 threads, which wait
for one another, or `--threads` does nothing.
"""

import os
import subprocess
import sys

import pytest

from isoprefill.host import control_groups, threads

POOL = """
import pathlib
from isoprefill.host.threads import use_threads
print(use_threads({count}))
import jax
jax.devices()
jax.jit(lambda x: x @ x)(jax.numpy.ones((300, 300))).block_until_ready()
names = [task.joinpath("comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
print(sum(name.startswith("tf_XLAEigen") for name in names))
"""


@pytest.mark.parametrize(
    ("count", "variables", "expected"),
    [
        (3, {}, 3),
        (None, {"ISOPREFILL_THREADS": "4"}, 4),
        (2, {"ISOPREFILL_THREADS": "4"}, 2),
        (None, {"NPROC": "5"}, 5),
    ],
)
def test_the_pool_has_that_many_threads(count, variables, expected):
    """Else the setting does not reach XLA, or the flag does not win over the environment."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NPROC", threads.VARIABLE)
    }
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), **variables}
    done = subprocess.run(
        [sys.executable, "-c", POOL.format(count=count)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(expected)] * 2, done.stderr


@pytest.mark.parametrize("count", [0, -1, 4097, 1.5, "two", True])
def test_what_is_no_number_of_threads_is_refused(count):
    """Else XLA ends the process, or ignores it."""
    with pytest.raises(ValueError, match="threads must be an integer between 1 and 4096, got"):
        threads.use_threads(count)


def test_another_number_is_refused_later(monkeypatch):
    """Else somebody thinks that it was taken, after XLA has made its pool."""
    monkeypatch.setattr(threads, "_chosen", None)
    monkeypatch.setenv("NPROC", "7")
    assert threads.use_threads() == 7
    assert threads.use_threads(7) == 7
    with pytest.raises(ValueError, match="threads is 3, but this process computes on 7 already"):
        threads.use_threads(3)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, [2.5]),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/cpu.max": "700000 100000\n",
            },
            [3.0, 7.0],
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
        ({}, []),
    ],
)
def test_quotas_of_control_groups(monkeypatch, tmp_path, files, expected):
    """Both versions, in every group that the process lies in; a container sees its own as the root."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(control_groups, "_OWN_GROUPS", tmp_path / "proc/self/cgroup")
    monkeypatch.setattr(control_groups, "_GROUPS", tmp_path / "sys/fs/cgroup")
    assert list(threads._quotas()) == expected


def test_usable_threads_are_within_affinity_and_quota(monkeypatch):
    """At least one, even with half a processor."""
    assert 1 <= threads.usable_threads() <= len(os.sched_getaffinity(0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    for quotas, expected in (([], 64), ([2.5, 8.0], 2), ([0.5], 1)):
        monkeypatch.setattr(threads, "_quotas", lambda quotas=quotas: quotas)
        assert threads.usable_threads() == expected
