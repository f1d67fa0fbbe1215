"""A small HTTP server that answers as the protocol of an endpoint teacher says, over a real model."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from kdcore.teachers.causal_lm import CausalLMTeacher

KEY = "a-secret-key"


class Server(ThreadingHTTPServer):
    """Answers as the protocol says, but for what a test changes."""

    def __init__(self, teacher: CausalLMTeacher) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.teacher = teacher
        self.statuses: list[int] = []
        self.spoil: Any = None
        self.keys: list[str | None] = []
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()

    def cells(self, tokens: list[int], k: int) -> list[Any]:
        rows = self.teacher.window_logits([np.array(tokens)])[0].log_softmax(1)
        cells: list[Any] = [None]
        for row, token in zip(rows, tokens[1:], strict=False):
            chosen = {*row.topk(k).indices.tolist(), token}
            cells.append({str(i): {"logprob": float(row[i]), "rank": 1, "decoded_token": "x"} for i in chosen})
        return cells


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.keys.append(self.headers["Authorization"])
            status = self.server.statuses.pop(0) if self.server.statuses else 200
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        if asked["model"] != "tiny":
            status = 404
        cells = self.server.cells(asked["prompt"], asked["prompt_logprobs"])
        with self.server.lock:
            self.server.at_once -= 1
        if self.server.spoil:
            self.server.spoil(cells)
        answer = {"choices": [{"text": "", "prompt_logprobs": cells}]} if status == 200 else {"error": f"no {KEY}"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(teacher: CausalLMTeacher) -> Iterator[Server]:
    """A server on a free port of this machine, for the time of a `with` block."""
    server = Server(teacher)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
