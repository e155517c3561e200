"""A lake of 200,000 rows on two nodes, whose processes are killed: nothing is lost, doubled or changed.

If it fails, a spot machine that goes away costs rows or hours. The nodes are simulated on one machine; the driver is
the command itself, in a process of its own.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from ray.cluster_utils import Cluster

from batch_lakes import assert_same_rows, lake, read_output, write_lake
from isoprefill.batch import job_files

pytest_plugins = ["batch_fixtures"]

ROWS, QUERIES = 200_000, 2_000
PATIENCE_S = 600


@pytest.fixture(scope="module")
def lake_directory(tmp_path_factory):
    return write_lake(lake(ROWS, QUERIES, hot=0.05), tmp_path_factory.mktemp("lake"), files=4)


class Nodes:
    """Two nodes: one with the driver and a place for one replica, and one for two."""

    def __init__(self):
        small = {"object_store_memory": 80_000_000, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
        self.address = self._cluster.address
        self.add()

    def add(self):
        self._second = self._cluster.add_node(num_cpus=2, object_store_memory=80_000_000)

    def raylet(self):
        """The process of the second node."""
        (process,) = self._second.all_processes["raylet"]
        return process.process.pid

    def close(self):
        self._cluster.shutdown()


@pytest.fixture
def nodes():
    made = Nodes()
    yield made
    made.close()


def command(lake, output, model, *more):
    return [
        sys.executable,
        *("-m", "isoprefill", "batch"),
        *(f"--input={lake}", f"--output={output}", f"--model={model}", "--threads=1"),
        *("--log-format=json", *more),
    ]


def finish(process):
    """Waits for a job; returns its summary."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return json.loads(out)


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(condition, process=None):
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


def blocks(output):
    return len(list(pathlib.Path(output).glob("part-*.parquet")))


def blocks_of(output):
    """How many there are to be."""
    return len(json.loads((pathlib.Path(output) / job_files.PLAN).read_text())["blocks"])


def parts(output):
    return len(list((pathlib.Path(output) / job_files.SHUFFLE).glob("*.arrow")))


def actors():
    """The processes of this job's actors on any node, with what each is doing."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if title.startswith("ray::JobActor") and is_ours(int(entry.name)):
                    found[int(entry.name)] = title
    return found


def is_ours(pid):
    """Whether this process started it, or one that it started."""
    while pid > 1:
        if pid == os.getpid():
            return True
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
    return False


def kill_an_actor():
    scoring = sorted(pid for pid, title in actors().items() if "score" in title)
    assert scoring
    os.kill(scoring[0], signal.SIGKILL)


def raylets():
    """The raylets of this test that live."""
    return [
        int(entry.name)
        for entry in pathlib.Path("/proc").iterdir()
        if entry.name.isdecimal() and is_raylet(int(entry.name)) and is_ours(int(entry.name))
    ]


def is_raylet(pid):
    """Whether a process lives and runs the raylet's own program: a script that starts one also names it."""
    return read_or_empty(f"/proc/{pid}/cmdline").split(b"\0")[0].endswith(b"/raylet/raylet")


def kill_a_raylet(pid):
    """Kills a process that is a raylet, and waits until it is dead: a wrapper's death would prove nothing."""
    assert is_raylet(pid)
    os.kill(pid, signal.SIGKILL)
    # A dead one that nobody has waited for has no command line.
    wait_for(lambda: not is_raylet(pid))


def test_killed_processes_cost_no_rows(lake_directory, nodes, model_directory, tmp_path):
    """An actor, a node and the driver are killed with kill -9, the driver once in the shuffle and once in a block."""
    undisturbed = start(
        lake_directory,
        tmp_path / "undisturbed",
        model_directory,
        "--replicas=1",
        "--block-items=7000",
    )
    assert finish(undisturbed)["errors"] == 0

    output = tmp_path / "killed"
    asked = (
        lake_directory,
        output,
        model_directory,
        "--replicas=2",
        f"--ray-address={nodes.address}",
    )
    first = start(*asked)
    wait_for(lambda: parts(output) >= 1, first)
    first.kill()  # the driver, in the shuffle
    first.communicate()

    second = start(*asked)
    wait_for(lambda: blocks(output) >= 20, second)
    kill_an_actor()
    killed_at = blocks(output)
    wait_for(lambda: blocks(output) >= killed_at + 30, second)
    kill_a_raylet(nodes.raylet())  # a node with what runs on it
    killed_at = blocks(output)
    wait_for(lambda: blocks(output) >= killed_at + 20, second)
    second.kill()  # the driver, in blocks
    second.communicate()
    assert blocks(output) < 199

    nodes.add()
    summary = finish(start(*asked))
    assert (summary["rows"], summary["errors"]) == (ROWS, 0)
    assert 0 < summary["items_begun_again"] <= 3 * ROWS / 100  # three kills hit blocks
    assert summary["items_now"] < ROWS
    assert_same_rows(read_output(output), read_output(tmp_path / "undisturbed"))
    ids = read_output(output)["id"].to_pylist()
    assert sorted(ids) == list(range(ROWS))


def test_a_killed_local_ray_costs_no_rows(model_directory, tmp_path):
    """On one machine the driver goes down with its raylet; the same command continues."""
    small = write_lake(lake(20_000, 200), tmp_path / "lake")
    output = tmp_path / "killed"
    asked = (small, output, model_directory, "--block-items=100")
    first = start(*asked)
    wait_for(lambda: blocks(output) >= 4, first)
    (raylet,) = raylets()
    kill_a_raylet(raylet)
    first.communicate(timeout=PATIENCE_S)
    assert not raylets()  # nobody started another
    # Ray's actors outlive their raylet for some seconds, which may suffice.
    assert first.returncode in (0, 1)
    before = blocks(output)
    assert (before == blocks_of(output)) == (first.returncode == 0)
    summary = finish(start(*asked))
    assert summary["items_begun_again"] <= 100
    if first.returncode:
        assert summary["items_now"] <= (summary["blocks"] - before) * 100
    finish(start(small, tmp_path / "whole", model_directory, "--block-items=3000"))
    assert_same_rows(read_output(output), read_output(tmp_path / "whole"))


def read_or_empty(path):
    try:
        return pathlib.Path(path).read_bytes()
    except OSError:
        return b""
