"""Programs that tests need beside Python, from Debian's packages."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["debian_program"]

INSTALL: Final = ("apt-get", "install", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60")
INSTALL_TIMEOUT_S: Final = 150.0
# Where a user's PATH does not lead.
FOLDERS: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"


@cache
def debian_program(package: str, *names: str) -> str | None:
    """The path of a program that has one of the names. On a fresh machine the package is installed; one that is
    somebody's own (we are not root there) is left as it is."""
    # Tests that run beside these wait, and find it.
    with open(Path(tempfile.gettempdir()) / f"reflex-tests-{package}-{os.geteuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = look_for(names)
        if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
            env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (("apt-get", "update"), (*INSTALL, package)):
                subprocess.run(command, check=True, timeout=INSTALL_TIMEOUT_S, env=env, stdout=subprocess.DEVNULL)
            found = look_for(names)
    return found


def look_for(names: tuple[str, ...]) -> str | None:
    return next(filter(None, (shutil.which(name, path=FOLDERS) for name in names)), None)
