"""A real S3 service of this machine (moto's), whose N-th answer fails, or all from there on."""

import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

# Not that of other tests: the buckets of moto belong to the process, whatever the port.
BUCKET = "torture"
BODY = "<?xml version='1.0'?><Error><Code>{}</Code><Message>said so</Message></Error>"


@dataclass(frozen=True)
class Answer:
    """What the service does in place of its answer.

    Attributes:
        name: What it is.
        status: HTTP status and the code of S3, where that is what it answers.
        before: Whether it happens before the request is carried out, rather than after.
        always: Whether to all requests from the N-th on.
        method: Method of the requests that count; "" for all.
    """

    name: str
    status: tuple[str, str] | None = None
    before: bool = True
    always: bool = False
    method: str = ""


ANSWERS = (
    Answer("500", ("500 Internal Server Error", "InternalError")),
    Answer("503", ("503 Slow Down", "SlowDown")),
    Answer("503, from then on", ("503 Slow Down", "SlowDown"), always=True),
    Answer("403, from then on", ("403 Forbidden", "ExpiredToken"), always=True),
    Answer("409 to a put", ("409 Conflict", "ConditionalRequestConflict"), method="PUT"),
    Answer("connection reset"),
    Answer("connection reset, done all the same", before=False),
    Answer("connection reset, from then on", always=True),
    Answer("half an answer"),
    Answer("slow"),
    Answer("kill"),
    Answer("kill, done all the same", before=False),
)
SECONDS = 3.0  # of a slow answer


class FailingStore:
    """The service, in a thread.

    Attributes:
        port: Where it listens.
        requests: Methods of the requests since `arm`.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self._lock, self.port = threading.Lock(), self._server.port
        self.arm()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """What sends a process to it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def arm(self, answer: Answer | None = None, n: int = 0) -> None:
        """Let the N-th of the requests that count, from now on, have another answer."""
        with self._lock:
            self._answer, self._n, self.requests = answer, n, list[str]()

    def close(self) -> None:
        self.arm()
        self._server.shutdown()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        with self._lock:
            answer = self._answer
            counts = answer is None or answer.method in ("", method)
            self.requests += [method] if counts else []
            number = len(self.requests)
            hit = answer and counts and (number == self._n or (answer.always and number > self._n))
        if not answer or not hit:
            return self._app(environ, start_response)
        if answer.name == "slow":
            time.sleep(SECONDS)
            return self._app(environ, start_response)
        if answer.name == "half an answer":
            return self._half(environ, start_response)
        if answer.before:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        else:
            b"".join(self._app(environ, lambda *_: None))
        if answer.name.startswith("kill"):
            asks = re.search(r"app/(\d+)", environ["HTTP_USER_AGENT"])
            with suppress(ProcessLookupError):
                os.kill(int(asks[1]), signal.SIGKILL)
        if answer.status:
            start_response(answer.status[0], [("Content-Type", "application/xml")])
            return [BODY.format(answer.status[1]).encode()]
        self._reset(environ)
        return []

    def _half(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        said: list[Any] = []
        body = b"".join(self._app(environ, lambda *args: said.extend(args)))
        headers = [each for each in said[1] if each[0].lower() != "content-length"]
        start_response(said[0], [*headers, ("Content-Length", str(len(body)))])
        yield body[: len(body) // 2]
        self._reset(environ)

    def _reset(self, environ: dict[str, Any]) -> None:
        # Closed at once, unsent bytes dropped: the other side is told of a reset.
        connection = environ["werkzeug.socket"]
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError
