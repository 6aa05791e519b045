"""What `postmaster.pid` in a data folder says, and whether it is true: a crash leaves the file behind."""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PidFile", "forget_crashed_server", "read_pid_file", "running_server"]

FILE = "postmaster.pid"


@dataclass(frozen=True, slots=True)
class PidFile:
    """The lines that matter. `status` is empty while the server is writing the file."""

    pid: int
    started: str
    port: int
    status: str

    def is_true(self, data_dir: Path) -> bool:
        """Whether the process is there and is a server on `data_dir`."""
        try:
            os.getpgid(self.pid)
            if sys.platform != "linux":
                return True
            # Pids are used again, soonest in a container. Only a server works in its data folder.
            return os.path.samestat(os.stat(f"/proc/{self.pid}/cwd"), data_dir.stat())
        except (FileNotFoundError, ProcessLookupError):
            return False


def read_pid_file(data_dir: Path) -> PidFile | None:
    """None if there is no file, or not yet a whole one."""
    try:
        lines = (data_dir / FILE).read_text().splitlines()
        status = lines[7].strip() if len(lines) > 7 else ""
        return PidFile(pid=int(lines[0]), started=lines[2], port=int(lines[3]), status=status)
    except (FileNotFoundError, IndexError, ValueError):
        return None


def running_server(data_dir: Path) -> PidFile | None:
    """The server that holds `data_dir`, if one does."""
    found = read_pid_file(data_dir)
    return found if found and found.is_true(data_dir) else None


def forget_crashed_server(data_dir: Path) -> None:
    """Remove a pid file whose pid now belongs to someone else.

    A starting server sees only that the pid lives, and refuses. A file with a dead pid stays: the server
    reads from it whether connections of the crashed one still hold its shared memory.
    """
    found = read_pid_file(data_dir)
    if found and not found.is_true(data_dir):
        with contextlib.suppress(ProcessLookupError):
            os.getpgid(found.pid)
            (data_dir / FILE).unlink()
