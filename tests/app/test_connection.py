"""What a client may do to a connection, byte by byte, against a server over real sockets."""

import asyncio
import functools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.http.crowd import Bounds, Crowd
from app.http.middleware import CancelOnDisconnect
from app.serving.connection import Connection

pytestmark = pytest.mark.slow  # many wait for a limit on time

BOUNDS = Bounds(
    connections=20, head_bytes=2048, head_seconds=0.5, body_seconds=0.5, answer_seconds=0.5
)
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
PATIENCE = 10  # seconds


class Application:
    """/echo answers with the body, /refuse at once, /slow after a while, /long with much."""

    def __init__(self) -> None:
        self.begun = self.cancelled = self.failed = 0
        self.gate = threading.Event()  # lets /slow go on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.begun += 1
        try:
            await self._serve(scope["method"], scope["path"], receive, send)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except Exception:
            self.failed += 1
            raise

    async def _serve(self, method: str, path: str, receive: Receive, send: Send) -> None:
        content = b""
        if path == "/slow":
            while not self.gate.is_set():
                await asyncio.sleep(0.01)
        elif path == "/long":
            content = b"x" * 50_000_000
        elif path == "/echo" and method == "POST":
            while (message := await receive())["type"] == "http.request":
                content += message["body"]
                if not message["more_body"]:
                    break
        length = str(len(content)).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


class Served:
    """A server in a thread."""

    def __init__(self, bounds: Bounds) -> None:
        self.application = Application()
        config = uvicorn.Config(
            CancelOnDisconnect(self.application),
            port=0,
            http=functools.partial(Connection, crowd=Crowd(bounds)),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=PATIENCE,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run)

    @property
    def port(self) -> int:
        number: int = self.server.servers[0].sockets[0].getsockname()[1]
        return number

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))

    def send(self, *parts: bytes, pause: float = 0.0) -> "Heard":
        """All that is answered to what is sent, until the server closes."""
        with closing(self.connect()) as client:
            with suppress(ConnectionError):
                for part in parts:
                    client.sendall(part)
                    time.sleep(pause)
            return Heard(client)


class Heard:
    """What came over a connection until it was closed."""

    def __init__(self, client: socket.socket) -> None:
        began, content = time.monotonic(), b""
        with suppress(ConnectionError):
            while part := client.recv(1 << 16):
                content += part
        self.seconds, self.content = time.monotonic() - began, content
        self.head, _, self.body = content.partition(b"\r\n\r\n")

    @property
    def status(self) -> int:
        return int(self.content.split()[1]) if self.content else 0

    def refuses(self, status: int) -> bool:
        """Whether it is one answer: problem details, and the word that the connection is closed."""
        assert self.status == status, self.content
        assert b"connection: close" in self.head
        assert b"content-type: application/problem+json" in self.head
        assert json.loads(self.body)["status"] == status
        return True


@contextmanager
def serving(**bounds: float) -> Iterator[Served]:
    served = Served(replace(BOUNDS, **bounds))  # type: ignore[arg-type]
    served.thread.start()
    try:
        wait_until(lambda: served.server.started)
        yield served
    finally:
        served.application.gate.set()
        served.server.should_exit = True
        served.thread.join(PATIENCE)
        assert not served.thread.is_alive()


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


def wait_until(happens: object) -> None:
    end = time.monotonic() + PATIENCE
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def head_of(size: int) -> bytes:
    """A whole head of so many bytes."""
    fill = size - len(GET) - len(b"X: \r\n")
    return GET[:-2] + b"X: " + b"a" * fill + b"\r\n\r\n"


@pytest.mark.parametrize("split", [1, 1000, 10**6])
def test_a_head_may_have_so_many_bytes_and_not_one_more(served: Served, split: int) -> None:
    for size, status in ((2048, 200), (2049, 431)):
        head = head_of(size)
        assert len(head) == size
        with closing(served.connect()) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for first in range(0, size, split):
                with suppress(ConnectionError):
                    client.sendall(head[first : first + split])
            assert client.recv(1 << 16).split()[1] == str(status).encode()


@pytest.mark.parametrize(
    ("status", "begin", "again"),
    [
        (431, GET[:-2] + b"X: ", b"a" * 1000),
        (431, b"GET /", b"a" * 1000),
        (431, GET[:-2], b"X: a\r\n" * 100),
        (431, GET[:-2], b"Host: a\r\n" * 100),
        (431, b"", b"\r\n" * 500),
        (431, GET[:-2] + b"a", b"a" * 1000),
        (431, GET + GET[:-2] + b"X: ", b"a" * 1000),
        (400, CHUNKED + b"1;a=", b"a" * 1000),
        (400, CHUNKED + b"1\r\nx\r\n0\r\nX: ", b"a" * 1000),
        (400, CHUNKED + b"1\r\nx\r\n0\r\n", b"X: a\r\n" * 100),
        (400, CHUNKED, b"0" * 1000),
        (400, b"", b"a" * 1000),
    ],
)
def test_what_never_ends_is_refused(
    served: Served, status: int, begin: bytes, again: bytes
) -> None:
    """Headers, lines, trailers, chunks; and no byte is kept of what comes after."""
    heard = served.send(begin, *[again] * 3000)
    assert heard.content.count(b"HTTP/1.1 ") == 1 + begin.startswith(GET)
    assert f"HTTP/1.1 {status} ".encode() in heard.content
    assert b"connection: close" in heard.content


def test_chunks_of_one_byte_are_a_body_like_any(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        content = b""
        while not content.endswith(b"x" * 5000):
            content += client.recv(1 << 16)


@pytest.mark.parametrize("bytes_sent", [b"", GET[:-2], b"\r\n", b"G"])
def test_a_head_has_a_time_to_come_in(served: Served, bytes_sent: bytes) -> None:
    """A byte now and then makes it no longer; who has said nothing is told nothing."""
    heard = served.send(bytes_sent, *[b"X"] * 4 if bytes_sent == GET[:-2] else [], pause=0.1)
    assert heard.refuses(408) if bytes_sent else heard.content == b""


@pytest.mark.parametrize("first", [b"", GET])
def test_a_body_has_a_time_to_come_in(served: Served, first: bytes) -> None:
    post = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    heard = served.send(first, post, *[b"x"] * 10, pause=0.1)
    assert b"HTTP/1.1 408 " in heard.content
    wait_until(lambda: served.application.cancelled == 1)


def test_a_get_whose_body_never_comes_is_not_served_for_ever(served: Served) -> None:
    heard = served.send(b"GET /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
    assert heard.refuses(408)
    wait_until(lambda: served.application.cancelled == 1)


def test_an_empty_line_after_a_body_does_not_end_a_long_request(served: Served) -> None:
    """As old browsers send one; RFC 9112, 2.2."""
    with closing(served.connect()) as client:
        client.sendall(SLOW + b"\r\n")
        time.sleep(3 * BOUNDS.head_seconds)
        served.application.gate.set()
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_who_is_refused_early_reads_why_and_is_heard_no_more(served: Served) -> None:
    head = b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n"
    heard = served.send(head, *[b"x" * 1000] * 500)
    assert heard.status == 200
    assert b"connection: close" in heard.head
    assert heard.seconds < PATIENCE / 2


def test_an_upgrade_is_ignored_and_the_body_is_read(served: Served) -> None:
    """As Java's client and `curl --http2` ask; the connection is kept."""
    for upgrade in (b"h2c", b"websocket", b"TLS/1.0, h2c"):
        request = (
            b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: %s\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 5\r\n\r\n"
        ) % upgrade
        for body in ([b"hello"], [b"he", b"llo"], [b"h", b"ello" + GET]):
            with closing(served.connect()) as client:
                client.sendall(request + body[0])
                for part in body[1:]:
                    time.sleep(0.05)
                    client.sendall(part)
                content = b""
                while b"hello" not in content:
                    content += client.recv(1 << 16)
                assert content.startswith(b"HTTP/1.1 200 ")
                assert b"connection: close" not in content
    closing_request = request.replace(b"Connection: ", b"Connection: close, ")
    assert b"connection: close" in served.send(closing_request + b"hello").head


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"GET /echo HTTP/1.1\r\n\r\n"),
        (400, b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
        (400, b"GET /echo HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n"),
        (400, b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        (400, b"nonsense\r\n\r\n"),
        (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (405, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
        (405, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n"),
    ],
)
def test_what_is_no_request_is_refused(served: Served, status: int, request_bytes: bytes) -> None:
    assert served.send(request_bytes).refuses(status)
    assert served.application.begun == 0


def test_http_1_0_needs_no_host(served: Served) -> None:
    assert served.send(b"GET /echo HTTP/1.0\r\n\r\n").status == 200


def test_requests_in_a_row_are_answered_in_order(served: Served) -> None:
    posts = [
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d" % k for k in range(12)
    ]
    with closing(served.connect()) as client:
        client.sendall(b"".join(posts))
        content = b""
        while content.count(b"HTTP/1.1 200") < 12 or not content.endswith(b"11"):
            content += client.recv(1 << 16)
    bodies = [part[:2] for part in content.split(b"\r\n\r\n")[1:]]
    assert bodies == [b"%02d" % k for k in range(12)]


@pytest.mark.parametrize(
    "behind",
    [
        SLOW,
        GET * 10,
        GET[:-2],
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n" + b"x" * 50_000,
        b"\r\n" * 10,
        b"nonsense",
        GET * 100,
    ],
)
def test_leaving_is_seen_whatever_waits_behind(served: Served, behind: bytes) -> None:
    client = served.connect()
    client.sendall(SLOW)
    wait_until(lambda: served.application.begun == 1)
    client.sendall(behind)
    time.sleep(0.05)
    client.close()
    wait_until(lambda: served.application.cancelled == 1)
    assert served.application.begun == 1, "who waited is never begun"


@pytest.mark.parametrize("behind", [GET * 100, b"nonsense\r\n\r\n", CHUNKED + b"zz\r\n"])
def test_who_is_served_is_answered_before_what_follows_is_refused(
    served: Served, behind: bytes
) -> None:
    with closing(served.connect()) as client:
        client.sendall(SLOW)
        wait_until(lambda: served.application.begun == 1)
        client.sendall(behind)
        time.sleep(0.05)
        served.application.gate.set()
        heard = Heard(client)
    assert heard.status == 200
    assert heard.content.count(b"HTTP/1.1 ") == 1


def test_an_answer_has_a_time_to_be_taken(served: Served) -> None:
    with closing(served.connect()) as client:
        client.sendall(GET.replace(b"/echo", b"/long"))
        assert client.recv(1 << 10).startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: not served.server.server_state.connections)


def test_silent_connections_lock_nobody_out() -> None:
    with serving(head_seconds=60) as served:
        silent = [served.connect() for _ in range(30)]
        assert served.send(GET[:-2] + b"Connection: close\r\n\r\n").status == 200
        assert len(served.server.server_state.connections) <= 20
        for client in silent:
            client.close()


def test_who_is_served_makes_room_for_nobody() -> None:
    """One client has four fifths of the connections; another finds room beside it."""
    with serving(head_seconds=60) as served:
        busy = [served.connect() for _ in range(16)]
        for client in busy:
            client.sendall(SLOW)
        wait_until(lambda: served.application.begun == 16)
        assert served.send(GET).refuses(503)
        with closing(served.connect("127.0.0.2")) as other:
            other.sendall(GET)
            assert other.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        served.application.gate.set()
        for client in busy:
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            client.close()


def test_half_a_request_does_not_hold_up_the_end() -> None:
    with serving(body_seconds=60) as served, closing(served.connect()) as half:
        half.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        wait_until(lambda: served.application.begun == 1)
        began = time.monotonic()
        served.server.should_exit = True
        assert Heard(half).refuses(503)
        served.thread.join(PATIENCE)
        assert time.monotonic() - began < PATIENCE


@pytest.mark.parametrize(
    ("length", "status"),
    [(b"Transfer-Encoding: chunked", 400), (b"Content-Length: 5", 408)],
    ids=["broken chunk", "overdue"],
)
def test_who_was_refused_is_not_asked_to_go_on(served: Served, length: bytes, status: int) -> None:
    """`100 Continue` is due when a body is first read, which may be after the end."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + length + b"\r\n\r\n"
    heard = served.send(head + (b"no chunk\r\n" if status == 400 else b""))
    assert str(status).encode() in heard.content
    assert served.send(GET.replace(b"Host: x", b"Host: x\r\nConnection: close")).status == 200
    assert served.application.failed == 0
