"""What the benchmarks measure with: stamps, the load generator, the barrier, CPU and WAL."""

import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reflex.cli.bench import usage
from reflex.cli.bench.contestants import raw
from reflex.cli.bench.databases import connected, wal_position
from reflex.cli.bench.drain import drain
from reflex.cli.bench.processes import BenchmarkFailed, load
from reflex.cli.bench.sample import clear, fill, register
from reflex.cli.bench.stamps import Stamps, count_stamps, read_stamps


def test_stamps_are_read_back_in_their_places(tmp_path: Path) -> None:
    before = time.monotonic()
    in_order, placed = Stamps(tmp_path / "1.stamps"), Stamps(tmp_path / "2.stamps")
    in_order.mark()
    in_order.mark()
    placed.mark(3)

    first, second = read_stamps(tmp_path / "1.stamps")
    assert before <= first <= second <= time.monotonic()
    assert [at > 0 for at in read_stamps(tmp_path / "2.stamps")] == [False, False, False, True]
    assert count_stamps(tmp_path.iterdir()) == 2 + 4


def test_a_stamps_file_that_was_only_just_made_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "3.stamps").touch()
    assert count_stamps(tmp_path.iterdir()) == 0
    assert read_stamps(tmp_path / "3.stamps") == []


def test_a_stamps_file_that_is_written_counts_what_is_there(tmp_path: Path) -> None:
    """Whoever drains is read while it goes on. Fails if the count is written in more than one piece: about one look in
    thirty finds that there is none."""
    path = tmp_path / "4.stamps"
    Stamps(path).mark()
    marks = (
        "import sys, pathlib; from reflex.cli.bench.stamps import Stamps; stamps = Stamps(pathlib.Path(sys.argv[1]))"
    )
    writing = f"{marks}\nfor place in range(300_000): stamps.mark(place % 1000)"
    with subprocess.Popen([sys.executable, "-c", writing, path]) as writer:
        counts: list[int] = []
        while writer.poll() is None:
            counts.append(count_stamps([path]))
    first = next(number for number, count in enumerate(counts) if count > 1)
    assert len(counts[first:]) > 1000
    assert min(counts[first:]) > 1


@contextmanager
def server(answer: bytes) -> Generator[tuple[int, list[bytes]]]:
    """A server that answers every request of eight bytes of body in two pieces; what it was asked."""
    asked: list[bytes] = []

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                request = line
                while line not in (b"\r\n", b""):
                    line = self.rfile.readline()
                    request += line
                asked.append(request + self.rfile.read(8))
                head, _, body = answer.partition(b"\r\n\r\n")
                self.wfile.write(head + b"\r\n\r\n")
                self.wfile.flush()
                time.sleep(0.001)
                self.wfile.write(body)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as listening:
        threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield listening.server_address[1], asked
        finally:
            listening.shutdown()


def test_the_load_generator_keeps_its_connections_busy_and_counts_answers(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b'{"a": 1}')
    with server(b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\nyes") as (port, asked):
        counted = load(port, body, connections=3, seconds=0.3, content_type="application/x-ndjson")

    assert counted["sent"] == len(asked)
    assert 0 < counted["requests"] < counted["sent"]
    assert counted["p50_ms"] >= 1
    assert asked[0].startswith(b"POST /events HTTP/1.1\r\n")
    assert b"Content-Type: application/x-ndjson\r\n" in asked[0]
    assert {request[-8:] for request in asked} == {b'{"a": 1}'}


def test_refused_requests_are_no_throughput(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b'{"a": 1}')
    with (
        server(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n") as (port, _),
        pytest.raises(BenchmarkFailed, match="requests were refused"),
    ):
        load(port, body, connections=1, seconds=0.1)


def test_a_drain_starts_all_processes_together_and_ends_when_nothing_is_left(tmp_path: Path, database_url: str) -> None:
    register(database_url)
    fill(database_url, pending=2000, finished=10)
    drained = drain(database_url, raw(50), processes=2, count=2000, folder=tmp_path)

    assert 0 < drained.rate <= drained.start_rate
    if usage.available():
        assert drained.cpu_us is not None
        assert drained.cpu_us > 0
    # With the barrier away, the first process is done before the second one is up.
    shares = [count_stamps([path]) for path in (tmp_path / "stamps").iterdir()]
    assert len(shares) == 2
    assert min(shares) >= 50
    with connected(database_url) as conn:
        left = conn.execute(
            "SELECT (SELECT count(*) FROM reflex.delivery), (SELECT count(*) FROM reflex.lease), "
            "(SELECT count(*) FROM reflex.run WHERE worker_id <> '00000000-0000-7000-8000-000000000000')"
        ).fetchone()
        assert left == (0, 0, 2000)
        clear(database_url)
        assert conn.execute("SELECT count(*) FROM reflex.event").fetchone() == (0,)


def test_a_drain_whose_process_dies_says_what_it_said(tmp_path: Path, database_url: str) -> None:
    # No trigger is registered, so the raw loop finds none and ends.
    with pytest.raises(BenchmarkFailed, match=r"(?s)ended with 1: .*AssertionError"):
        drain(database_url, raw(50), processes=1, count=1, folder=tmp_path)


@pytest.mark.skipif(not usage.available(), reason="needs /proc")
def test_cpu_time_counts_what_children_used() -> None:
    before = usage.cpu_s(os.getpid())
    at = time.process_time()
    while time.process_time() - at < 0.05:
        pass
    own = usage.cpu_s(os.getpid())
    assert own - before >= 0.03  # two readings in ticks of 10 ms, and floats
    busy = "import time\nwhile time.process_time() < 0.15: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", busy], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert usage.cpu_s(os.getpid()) - own >= 0.13, "a child that is alive"
        child.communicate("\n")
    assert usage.cpu_s(os.getpid()) - own >= 0.13, "a child that has ended"
    assert 5 < usage.resident_mb(os.getpid()) < 5000


def test_the_wal_position_grows_by_what_is_written(database_url: str) -> None:
    with connected(database_url) as conn:
        conn.execute("CREATE TABLE written (text text)")
        before = wal_position(conn)
        conn.execute("INSERT INTO written VALUES (repeat('x', 1500))")
        assert wal_position(conn) - before >= 1500
