"""A real S3 API server (moto's) on loopback, in a process of its own."""

import http.client
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET, TOKEN = "AKIAKDCORETEST", "hunter2hunter2hunter2", "sessiontokenhunter2"
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[int]:
    """Its port; the server ends with the `with` block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdin=subprocess.PIPE,  # it ends when nobody holds the other end
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("port "))
        yield int(line.split()[1])
    finally:
        process.kill()
        process.wait()


def environment(port: int, cache: Path) -> dict[str, str]:
    """What points a client to the server, with credentials that must appear nowhere."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_MAX_ATTEMPTS": "3",
        "KDCORE_CACHE": str(cache),
    }


class Unwell(BaseHTTPRequestHandler):
    """Answers 503 while `failing` says so, and else passes everything on to the real server."""

    protocol_version = "HTTP/1.1"  # so that it answers "Expect: 100-continue"
    target = 0
    failing = staticmethod(lambda: True)
    answered = 0

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        type(self).answered += 1
        if self.failing():
            self._reply(503, {}, b"<Error><Code>ServiceUnavailable</Code><Message>unwell</Message></Error>")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.target)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self._reply(answer.status, dict(answer.getheaders()), content)
        connection.close()

    def _reply(self, status, headers, content):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def log_message(self, *_):
        pass


@contextmanager
def unwell_server(port: int) -> Iterator[tuple[type[Unwell], int]]:
    """A server in front of the real one, and its port; the handler says when it fails."""
    handler = type("Handler", (Unwell,), {"target": port, "answered": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield handler, server.server_port
    finally:
        server.shutdown()
        server.server_close()
