"""Somebody who is sent webhooks: a real HTTP server on the loopback address, which answers as it is told."""

import ssl
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

__all__ = ["Received", "Receiver", "receiver"]

Reply = tuple[int, Mapping[str, str], bytes]
OK: Reply = (204, {}, b"")


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """`received` is what came; `script` what is answered, in order, and then 204. `meanwhile` is called before."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[Received] = []
        self.script: list[Reply] = []
        self.meanwhile: Callable[[Received], Any] = lambda _: None


@contextmanager
def receiver(tls: ssl.SSLContext | None = None) -> Generator[Receiver]:
    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            came = Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            found.received.append(came)
            found.meanwhile(came)
            status, headers, answer = found.script.pop(0) if found.script else OK
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in headers:
                    self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)
            except OSError:
                pass  # who had asked is gone

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    found = Receiver(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
