"""A proxy that tells a test of each request before, within and after it, and waits for its word to go on."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

__all__ = ["Hook", "proxied"]

Hook = Callable[[str, str, str], bool]
"""(when, method, path) -> whether to go on; `when` is "before" anything was sent on, "within" the body, "after" the
answer came and before the client has it. False cuts both connections."""


@contextmanager
def proxied(address: str, hook: Hook) -> Iterator[str]:
    """The address of a proxy for the server at `address`; each connection carries one request, or a web socket."""
    parts = urlsplit(address)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, (parts.hostname, parts.port), hook), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _accept(listener: socket.socket, target: tuple[str, int], hook: Hook) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, target, hook), daemon=True).start()


def _serve(client: socket.socket, target: tuple[str, int], hook: Hook) -> None:
    with client, socket.create_connection(target) as server:
        try:
            head, body = _head(client)
            if not head:
                return
            method, path = head.split(b" ", 2)[:2]
            told = method.decode(), path.decode()
            length = int(_field(head, b"content-length") or 0)
            if not hook("before", *told):
                return
            # More than half of what there is never leaves before "within" was heard.
            body += _exactly(client, length - len(body))
            server.sendall(head + body[: length // 2])
            if not hook("within", *told):
                return
            server.sendall(body[length // 2 :])
            first = server.recv(65536)
            if not hook("after", *told):
                return
            client.sendall(first)
            back = threading.Thread(target=_pump, args=(client, server), daemon=True)
            back.start()
            _pump(server, client)
        except OSError:
            return


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request's head with its empty line, and what of its body came along."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            return b"", b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n", body


def _field(head: bytes, name: bytes) -> bytes:
    found = [line.partition(b":")[2].strip() for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return found[0] if found else b""


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := client.recv(65536)):
        data += more
    return data


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
