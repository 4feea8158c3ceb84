"""The sockets: two HTTP/1.1 origins on free ports of 127.0.0.1, and the faults that only a socket can show.

The standard library's threaded server, one thread a connection, does what an ASGI server keeps from its
application: closing a connection before the answer, or in the middle of a body that was announced longer. It also
starts in a few milliseconds.
"""

import socket
import socketserver
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from uuid import uuid4

from .faults import Fault
from .files import BytesFile
from .messages import Origin, Request, Response, Target, json_response
from .request_log import LoggedRequest

Answer = Callable[[Request], tuple[LoggedRequest, Response, Fault | None]]
SLOW_STEP = 0.05  # s between the pieces of a slow body
RATE_LIMITS = {"api": 500, "resolvers": 3000}  # requests in 300 s, signed out (huggingface.co/docs/hub/rate-limits)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "OriginServer"

    def do_GET(self) -> None:
        request = self._read_request()
        try:
            logged, response, fault = self.server.answer(request)
        except Exception:  # a mistake in this Hub: the test that met it shall fail with its traceback
            self.server.mistakes.append(traceback.format_exc())
            self.close_connection = True
            self._send(json_response({"error": self.server.mistakes[-1]}, 500), None, None)
            return
        if fault is not None:
            self.server.wait(fault.delay)
            if fault.close:
                logged.finished = time.monotonic()
                self.close_connection = True
                return
            response = with_fault(response, fault, logged)
        self._send(response, fault, logged)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _read_request(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(self.command, self.path, headers, body, self.server.origin)

    def _send(self, response: Response, fault: Fault | None, logged: LoggedRequest | None) -> None:
        endless = fault is not None and fault.endless
        chunked = response.chunked or endless
        if logged is not None:
            logged.status = response.status
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if self.server.origin == "hub" and "RateLimit" not in response.headers and logged is not None:
            for name, value in rate_limit(logged.target, left=None).items():
                self.send_header(name, value)
        self.send_header("X-Request-Id", f"Root=1-{uuid4().hex[:8]}-{uuid4().hex[:24]};{uuid4()}")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in response.headers:
            self.send_header("Content-Length", str(response.length))
        if self.close_connection:
            self.send_header("Connection", "close")
        if self.command == "HEAD" or (response.length == 0 and not chunked):
            self._finish(logged)
            self.end_headers()
            return
        self.end_headers()
        self._send_body(response, fault, logged, chunked)

    def _send_body(self, response: Response, fault: Fault | None, logged: LoggedRequest | None, chunked: bool) -> None:
        left = response.length
        if fault is not None and fault.truncate_after is not None and response.status in (200, 206):
            left = min(left, fault.truncate_after)
            self.close_connection = True
        for piece in self._pieces(response, left, fault):
            if logged is not None:
                logged.sent += len(piece)
                if logged.sent == response.length:
                    self._finish(logged)  # before the client can know: the log is then complete when it asks
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        self._finish(logged)
        if chunked and not self.close_connection:
            self.wfile.write(b"0\r\n\r\n")

    def _pieces(self, response: Response, length: int, fault: Fault | None) -> Iterator[bytes]:
        """`length` bytes of the body, at the pace and as often as the fault says."""
        rate = fault.bytes_per_second if fault is not None else None
        while not self.server.stopping:
            for chunk in response.file.chunks(response.start, response.start + length):
                step = max(1, int(rate * SLOW_STEP)) if rate else len(chunk)
                for at in range(0, len(chunk), step):
                    if rate and not self.server.wait(len(chunk[at : at + step]) / rate):
                        return
                    yield chunk[at : at + step]
            if fault is None or not fault.endless:
                return

    @staticmethod
    def _finish(logged: LoggedRequest | None) -> None:
        if logged is not None and logged.finished is None:
            logged.finished = time.monotonic()

    def version_string(self) -> str:
        return "local-hub"

    def log_message(self, format: str, *args: object) -> None:
        """The requests are in the log; nothing goes to stderr."""


def with_fault(response: Response, fault: Fault, logged: LoggedRequest) -> Response:
    """The answer that the fault makes of it."""
    headers = {**response.headers, **fault.headers}
    if fault.status is None:
        if fault.body is None:
            return replace(response, headers=headers)
        return Response(response.status, headers, BytesFile(fault.body))
    if fault.body is not None:
        return Response(fault.status, {"Content-Type": "text/plain", **fault.headers}, BytesFile(fault.body))
    phrase = HTTPStatus(fault.status).phrase
    message = "We had to rate limit your IP (127.0.0.1)." if fault.status == 429 else phrase
    failure = json_response({"error": message}, fault.status)
    if fault.retry_after is not None:
        failure.headers["Retry-After"] = str(fault.retry_after)
        if fault.status == 429:
            failure.headers |= rate_limit(logged.target, left=0, resets_in=fault.retry_after)
    failure.headers |= fault.headers
    return failure


def rate_limit(target: Target, *, left: int | None, resets_in: int = 300) -> dict[str, str]:
    """The limit's state, sent with every answer; `left` None says that there is plenty."""
    bucket = "resolvers" if target.kind in ("resolve", "resolve-cache") else "api"
    quota = RATE_LIMITS[bucket]
    return {
        "RateLimit": f'"{bucket}";r={quota - 1 if left is None else left};t={resets_in}',
        "RateLimit-Policy": f'"fixed window";"{bucket}";q={quota};w=300',
    }


class OriginServer(socketserver.ThreadingTCPServer):
    """One origin: the Hub, or the storage that its redirects lead to."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, origin: Origin, answer: Answer, mistakes: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.origin: Origin = origin
        self.answer = answer
        self.mistakes = mistakes
        self._stop = threading.Event()
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep; False as soon as the server stops."""
        return not (seconds > 0 and self._stop.wait(seconds)) and not self.stopping

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:
        self._connections.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.discard(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left is no mistake."""
        text = traceback.format_exc()
        if not any(name in text for name in ("ConnectionResetError", "BrokenPipeError", "ConnectionAbortedError")):
            self.mistakes.append(text)

    @contextmanager
    def running(self) -> Iterator[str]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self.url
        finally:
            self._stop.set()
            self.shutdown()
            thread.join()
            self.server_close()
            for connection in list(self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
