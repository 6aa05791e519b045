"""A data folder for the embedded PostgreSQL: how it is made, and the password that goes with it."""

import base64
import fcntl
import hashlib
import hmac
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from reflex.cli.postgres_account import ServerAccount, environment, give, identity, reachable
from reflex.core.errors import ConfigurationError
from reflex.core.lifeline import die_with_parent

__all__ = ["PostgresNotStarted", "cluster_url", "make_cluster"]

PASSWORD_FILE = "reflex.password"  # noqa: S105 - the name of a file


class PostgresNotStarted(ConfigurationError):
    """The embedded server does not run; the sentence says why and what to do."""

    code = "postgres_not_started"


def make_cluster(data_dir: Path, binaries: Path, account: ServerAccount | None, *, durable: bool) -> None:
    """Run initdb unless `data_dir` has a cluster.

    It runs beside the data folder and the result is moved in: a killed initdb leaves no half cluster.
    """
    parent = data_dir.parent
    parent.mkdir(parents=True, exist_ok=True)
    fresh = parent / f"{data_dir.name}.new"
    with (parent / f"{data_dir.name}.lock").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # two first starts at once
        if (data_dir / "PG_VERSION").exists():
            return
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        give(fresh, account)
        password = secrets.token_hex(16)
        _initdb(fresh, scram_verifier(password), binaries, account)
        (fresh / PASSWORD_FILE).touch(mode=0o600)
        (fresh / PASSWORD_FILE).write_text(password)
        give(fresh / PASSWORD_FILE, account)
        fresh.rename(data_dir)  # replaces a folder only if it is empty
    if durable:
        # A thousand files, some seconds on a busy disk: nobody has to wait for it. What is committed from now on is
        # written by the server itself.
        threading.Thread(target=os.sync, name="sync of the new cluster", daemon=True).start()


def cluster_url(data_dir: Path, port: int) -> str:
    """Address of the database `postgres`, with its password: not for logs."""
    try:
        password = ":" + (data_dir / PASSWORD_FILE).read_text()
    except FileNotFoundError:  # not made by us
        password = ""
    return f"postgresql://postgres{password}@127.0.0.1:{port}/postgres"


def scram_verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5803), made with one iteration instead of 4096. They slow down who
    guesses, and each connection by 3 ms; nobody guesses 128 random bits."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    kept_salt, kept_stored, kept_server = (base64.b64encode(value).decode() for value in (salt, stored, server))
    return f"SCRAM-SHA-256$1:{kept_salt}${kept_stored}:{kept_server}"


def _initdb(fresh: Path, password: str, binaries: Path, account: ServerAccount | None) -> None:
    command = [str(binaries / "initdb"), "-U", "postgres", "-E", "UTF8"]
    command += ["--locale=C.UTF-8" if sys.platform == "linux" else "--locale=C", "--no-instructions"]
    command += ["-A", "scram-sha-256", "--pwfile=/dev/stdin", "--no-sync"]
    reading, writing = os.pipe()  # a file would need a folder that the account can reach
    try:
        with os.fdopen(writing, "w") as pipe:
            pipe.write(password)
        if account:
            os.fchown(reading, account.uid, account.gid)
        with reachable(fresh, account) as (path, inherited):
            done = subprocess.run(  # noqa: S603 - our own words
                [*command, "-D", path], cwd="/", pass_fds=inherited, env=environment(), stdin=reading,
                capture_output=True, text=True, preexec_fn=die_with_parent(signal.SIGKILL), **identity(account),
            )  # fmt: skip
    finally:
        os.close(reading)
    if done.returncode:
        raise PostgresNotStarted(f"initdb failed in {fresh}: {(done.stderr or done.stdout).strip()}")
