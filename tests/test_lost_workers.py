"""Workers and main processes that are killed by a signal half-way: the table is whole, and equal to the serial one.

Each is killed when so many files of jobs are there: what is reached does not hang on how fast the machine is.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.swept import files, meanwhile, seen, sweep, wait_for
from tests.time_limit import at_most

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="of POSIX")]
SEEDS = 9
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as many threads as here: another number rounds sums otherwise
    with at_most(200):
        yield


@pytest.fixture(scope="module")
def serial(embedded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serial")
    return sweep(SEEDS, embedded, folder=folder), folder


def kill_at(folder: Path, count: int, process: int) -> None:
    wait_for(folder, count)
    os.kill(process, signal.SIGKILL)


def test_a_dask_worker_is_killed(embedded, serial, tmp_path):
    distributed = pytest.importorskip("distributed")
    result, folder = serial
    settings = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        killed, other = client.run(os.getpid).values()
        assert killed != other
        with meanwhile(lambda: kill_at(tmp_path, SEEDS // 3, killed)):
            found = sweep(SEEDS, embedded, folder=tmp_path, executor=client.get_executor())
        assert killed not in client.run(os.getpid).values()
    assert found.rows == result.rows
    assert files(tmp_path) == files(folder)


def test_dask_without_a_folder(embedded, serial):
    distributed = pytest.importorskip("distributed")
    settings = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster, distributed.Client(cluster) as client:
        assert sweep(SEEDS, embedded, executor=client.get_executor()).rows == serial[0].rows


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_a_process_pool_breaks_and_another_goes_on(embedded, serial, tmp_path, start):
    result, folder = serial
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(2, mp_context=context) as executor:

        def kill() -> None:
            wait_for(tmp_path, SEEDS // 3)
            os.kill(next(iter(executor._processes)), signal.SIGKILL)

        with meanwhile(kill), pytest.raises(RuntimeError, match=rf"\d+ of {SEEDS} jobs are done, and in .* a new exec"):
            sweep(SEEDS, embedded, folder=tmp_path, executor=executor)
    before = seen(tmp_path)
    assert SEEDS // 3 <= len(before) < SEEDS
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert sweep(SEEDS, embedded, folder=tmp_path, executor=executor).rows == result.rows
    assert before.items() <= seen(tmp_path).items(), "what was done was not done again"
    assert files(tmp_path) == files(folder)


def test_the_main_process_is_killed(embedded, serial, tmp_path):
    result, folder = serial
    script = f"from tests.swept import sweep; from pathlib import Path; sweep({SEEDS}, folder=Path({str(tmp_path)!r}))"
    for more in (2, 2):  # killed, and started again, and killed
        before = seen(tmp_path)
        child = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
        try:
            wait_for(tmp_path, len(before) + more)
        finally:
            child.kill()
            child.wait()
        assert child.returncode == -signal.SIGKILL
        assert before.items() <= seen(tmp_path).items()
    before = seen(tmp_path)
    assert len(before) < SEEDS
    assert sweep(SEEDS, embedded, folder=tmp_path).rows == result.rows
    assert before.items() <= seen(tmp_path).items()
    assert files(tmp_path) == files(folder)
