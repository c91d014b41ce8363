"""The machine that is measured on: its cores, how fast they are just now, and what a process has used of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
"""One for what is measured, another for what measures it; the same if there is only one."""
TICKS = os.sysconf("SC_CLK_TCK")
LOOP, SYNCS = 300_000, 9
IDLE_SHARE, IDLE_S, IDLE_WITHIN_S = 0.1, 0.3, 15
PEAK, NOW = "VmHWM", "VmRSS"


class Missing(Exception):
    """Something that this needs is not here; one line says what, and what to do."""


def tied(words: list[str], *cores: int) -> list[str]:
    """The command line on these cores alone; it ends with this process, however that ends."""
    if shutil.which("taskset") is None or shutil.which("setpriv") is None:
        raise Missing("taskset and setpriv are not installed: apt-get install util-linux")
    return ["setpriv", "--pdeathsig", "KILL", "taskset", "-c", ",".join(map(str, cores)), *words]


@contextlib.contextmanager
def on(*cores: int) -> Iterator[None]:
    """A block that this thread, and whatever it starts, runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compiled(name: str, folder: Path) -> Path:
    """The program made of the C file of that name beside this one."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Missing("there is no C compiler for the load and the mock: apt-get install gcc libc6-dev")
    program, source = folder / f"{name}-program", Path(__file__).with_name(f"{name}.c")
    subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    return program


class Calibration(msgspec.Struct, frozen=True):
    """How fast the machine is at the moment."""

    loop_ms: float
    """CPU time of a fixed loop on the servers' core."""
    waited: float
    """How many times as long that took by the clock: above 1, others were on the core."""
    sync_ms: float
    """Until a small write is on the disk, as the node's books are before it answers; the median of a few."""


def calibrate(folder: Path) -> Calibration:
    """A look at both, the disk being the one of that folder."""
    with on(SERVER_CORE):
        cpu, wall, total = time.thread_time(), time.perf_counter(), 0
        for n in range(LOOP):
            total += n * n % 7
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    return Calibration(round(cpu * 1000, 1), round(wall / cpu, 2), round(statistics.median(_syncs(folder)), 2))


def _syncs(folder: Path) -> Iterator[float]:
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            yield (time.perf_counter() - began) * 1000


def tree(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """What a running tree has used of a processor, with those of its children that ended."""
    total = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            after_its_name = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(ticks) for ticks in after_its_name[11:15])
    return total / TICKS


def core_busy_s(core: int) -> float:
    """What that core has worked since the machine began, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            idle_and_waiting = int(ticks[3]) + int(ticks[4])
            return (sum(map(int, ticks[:8])) - idle_and_waiting) / TICKS
    return 0


def memory_mib(pid: int, which: str = PEAK) -> float:
    """Resident memory of a running tree, now or at its most; what its processes share counts for each."""
    total_kib = 0
    for each in tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total_kib += sum(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))
    return round(total_kib / 1024, 1)


def forget_peak(pid: int) -> None:
    """From here on, a peak of memory is one that comes after this."""
    for each in tree(pid):
        with contextlib.suppress(OSError):
            Path(f"/proc/{each}/clear_refs").write_text("5")


def rest(pid: int) -> None:
    """Return when the tree is idle, so that what it has left to do is not in the next figures; or after a while."""
    until = time.monotonic() + IDLE_WITHIN_S
    while time.monotonic() < until:
        before = cpu_s(pid)
        time.sleep(IDLE_S)
        if cpu_s(pid) - before <= IDLE_SHARE * IDLE_S:
            return
