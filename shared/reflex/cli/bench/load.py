"""The load generator: a process that keeps connections busy with one request for a while. Standard library only.

It is as small as it can be on purpose: it runs on the same cores as what it measures. One thread waits for whichever
socket has an answer, and sends the next request on it.
"""

import argparse
import json
import re
import selectors
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Final

__all__ = ["main"]

LENGTH: Final = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
ANSWER_TIMEOUT_S: Final = 30.0


class Client:
    """One keep-alive connection with one request under way."""

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.received = b""
        self.sent_at = 0.0

    def send(self) -> None:
        self.sent_at = time.monotonic()
        self.sock.sendall(self.request)

    def receive(self) -> int:
        """Read what is there. The status once the answer is complete, else 0."""
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError(f"the server closed a connection after {self.received!r}")
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank:
            return 0
        length = LENGTH.search(head)
        if length is None:
            raise ConnectionError(f"an answer without a length: {head!r}")
        if len(body) < int(length[1]):
            return 0
        self.received = b""
        return int(head[9:12])


def run(port: int, request: bytes, *, connections: int, warm_up_s: float, seconds: float) -> dict[str, object]:
    """Send for `warm_up_s` and then count for `seconds`.

    Returns:
        `requests` that were answered in the time counted, `seconds`, `p50_ms`, `p99_ms`, `sent` in all and `refused`.
    """
    selector = selectors.DefaultSelector()
    clients = [Client(port, request) for _ in range(connections)]
    for client in clients:
        selector.register(client.sock, selectors.EVENT_READ, client)
        client.send()
    began = time.monotonic() + warm_up_s
    end = began + seconds
    waits: list[float] = []
    answered = refused = 0
    open_requests = connections
    while open_requests:
        ready = selector.select(ANSWER_TIMEOUT_S)
        if not ready:
            raise TimeoutError(f"no answer for {ANSWER_TIMEOUT_S:g} s")
        for key, _ in ready:
            client: Client = key.data
            status = client.receive()
            if not status:
                continue
            answered += 1
            refused += not 200 <= status < 300
            now = time.monotonic()
            if began <= now <= end:
                waits.append(now - client.sent_at)
            if now < end:
                client.send()
            else:
                open_requests -= 1
    cuts = statistics.quantiles(waits, n=100) if len(waits) > 1 else [0.0] * 99
    return {
        "requests": len(waits),
        "seconds": seconds,
        "p50_ms": cuts[49] * 1000,
        "p99_ms": cuts[98] * 1000,
        "sent": answered,
        "refused": refused,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("body", type=Path, help="a file with the body of every request")
    parser.add_argument("--content-type", default="application/json")
    parser.add_argument("--key", default="", help="the secret of an API key")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--warm-up", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    body: bytes = options.body.read_bytes()
    head = f"POST /events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {options.content_type}\r\n"
    head += f"Authorization: Bearer {options.key}\r\n" if options.key else ""
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    result = run(
        options.port,
        request,
        connections=options.connections,
        warm_up_s=options.warm_up,
        seconds=options.seconds,
    )
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
