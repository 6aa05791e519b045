"""What a process and its children use: CPU time and resident memory, from /proc (Linux)."""

import os
from pathlib import Path
from typing import Final

__all__ = ["available", "cpu_s", "resident_mb", "server_pid"]

PROC: Final = Path("/proc")
# Fields of /proc/<pid>/stat, counted from the one after the command's closing parenthesis (the state).
PARENT: Final = 1
CPU_TIMES: Final = slice(11, 15)  # utime, stime, and those of children that have ended


def available() -> bool:
    return (PROC / "self" / "stat").exists()


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process and its children have used so far."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[PARENT])
            ticks[int(entry.name)] = sum(map(int, fields[CPU_TIMES]))
    family = {pid}
    while found := {child for child, parent in parents.items() if parent in family} - family:
        family |= found
    return sum(ticks.get(member, 0) for member in family) / os.sysconf("SC_CLK_TCK")


def server_pid(backend_pid: int) -> int | None:
    """The PostgreSQL server that a connection's process belongs to; None if it runs on another machine."""
    try:
        process = PROC / str(backend_pid)
        if not (process / "cmdline").read_bytes().startswith(b"postgres"):
            return None
        return int((process / "stat").read_text().rpartition(")")[2].split()[PARENT])
    except OSError:
        return None


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in millions of bytes."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0
