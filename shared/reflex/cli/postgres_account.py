"""The account that PostgreSQL's server runs as: our own or, as it refuses root, an unprivileged one."""

import os
import pwd
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from reflex.core.errors import ConfigurationError

__all__ = ["ServerAccount", "environment", "give", "identity", "reachable", "server_account"]


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """An account other than ours."""

    name: str
    uid: int
    gid: int


class Identity(TypedDict, total=False):
    """Arguments of `subprocess` that start a program as another account."""

    user: int
    group: int
    extra_groups: list[int]


def server_account(data_dir: Path) -> ServerAccount | None:
    """Who runs the server on `data_dir`; None for the account that we are.

    Raises:
        ConfigurationError: We are root and the machine has no account to run a server with.
    """
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (uid := data_dir.stat().st_uid) != 0:  # made without sudo
        return ServerAccount(f"uid {uid}", uid, data_dir.stat().st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return ServerAccount(name, entry.pw_uid, entry.pw_gid)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no account `postgres` or `nobody` to run it with: "
        "work as an ordinary user, or set DATABASE_URL to a server that runs already."
    )


def identity(account: ServerAccount | None) -> Identity:
    """How `subprocess` becomes `account`; nothing for our own."""
    return Identity(user=account.uid, group=account.gid, extra_groups=[]) if account else Identity()


def give(path: Path, account: ServerAccount | None) -> None:
    """Make `account` the owner of `path`."""
    if account:
        os.chown(path, account.uid, account.gid)


def environment() -> dict[str, str]:
    """What the server sees of ours: not the keys of model providers, and no locale that it might not know."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ") if name in os.environ}
    return {"PATH": os.defpath, "LC_ALL": "C", **kept}


@contextmanager
def reachable(folder: Path, account: ServerAccount | None) -> Generator[tuple[str, tuple[int, ...]]]:
    """A path by which a program of `account` can name `folder`, and the file descriptors that it must inherit.

    A repository below a closed folder like /root is out of reach for `account`. What we have opened it may use
    all the same, and Linux has a path for that.

    Raises:
        ConfigurationError: This system has no such path.
    """
    if account is None or all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents):
        yield str(folder), ()
        return
    if sys.platform != "linux":
        raise ConfigurationError(
            f"the account {account.name!r}, which runs PostgreSQL because root may not, cannot reach {folder}: "
            "work as an ordinary user, or set REFLEX_DATA_DIR to a folder below which nothing is closed to it."
        )
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}", (opened,)
    finally:
        os.close(opened)
