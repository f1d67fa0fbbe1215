"""A front before an S3 server that answers 500 or 503 when told to, cuts an answer in its middle, or loses it."""

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Front", "front"]

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
_SORRY = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
_CODES = {500: "InternalError", 503: "SlowDown"}


class Front:
    """What the front does to requests, and what it saw.

    While `failing` says so, every request is answered 503. `answered` counts requests, `sent` bytes of answers;
    `written` are the keys of successful puts.
    """

    def __init__(self, seed: int) -> None:
        self.failing: Callable[[], bool] = lambda: False
        self.answered = self.sent = 0
        self.written: list[str] = []
        self.injected: Counter[str] = Counter()
        self._random, self._lock, self._left, self._share = random.Random(seed), threading.Lock(), 0, 0.0

    def disturb(self, requests: int, share: float) -> None:
        """Of the next `requests`, about `share` fail."""
        with self._lock:
            self._left, self._share = requests, share

    def calm(self) -> bool:
        """Whether the last disturbance is over."""
        return self._left == 0

    def stop(self) -> None:
        """No more disturbance."""
        self.disturb(0, 0.0)

    def fate(self, method: str) -> str:
        """What happens to a request: "500", "503", "cut" and "lost" are faults; "" is none."""
        with self._lock:
            self.answered += 1
            if self.failing():
                return "503"
            if self._left == 0:
                return ""
            self._left -= 1
            if self._random.random() >= self._share:
                return ""
            kind = self._random.choice(["500", "503", {"PUT": "lost", "POST": "lost", "GET": "cut"}.get(method, "503")])
            self.injected[kind] += 1
            return kind


@contextmanager
def front(server_port: int, seed: int = 0) -> Iterator[tuple[int, Front]]:
    """The front's port on loopback and its handle; it ends with the `with` block."""
    control = Front(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to say."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            fate = control.fate(self.command)
            if fate in ("500", "503"):
                sorry = _SORRY.format(code=_CODES[int(fate)]).encode()
                self._answer(int(fate), {"Content-Type": "application/xml"}, sorry, len(sorry))
                return
            status, headers, answer = self._forward(body)
            if self.command == "PUT" and status == 200:
                control.written.append(self.path.partition("?")[0])
            if fate == "lost":
                self.close_connection = True
            elif fate == "cut":
                self._answer(status, headers, answer[: len(answer) // 2], len(answer))
                self.close_connection = True
            else:
                self._answer(status, headers, answer, len(answer))

        def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", server_port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            kept = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
            if self.command == "HEAD":
                kept["Content-Length"] = response.getheader("Content-Length") or "0"
            return response.status, kept, answer

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            with contextlib.suppress(ConnectionError):  # whoever asked is gone: killed, or out of patience
                self.end_headers()
                if self.command != "HEAD":
                    control.sent += len(body)
                    self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], control
    finally:
        server.shutdown()
        server.server_close()
