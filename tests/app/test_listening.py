"""Where the server listens, over real sockets."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest

from app.serving.listening import CannotListen, listen, url_of

pytestmark = pytest.mark.platform  # not every machine has IPv6


def has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


BOTH = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@contextmanager
def listening(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = listen(host, port)
    try:
        yield sockets
    finally:
        for each in sockets:
            each.close()


def ports(sockets: Sequence[socket.socket]) -> set[int]:
    return {each.getsockname()[1] for each in sockets}


@pytest.mark.parametrize("host", ["localhost", "::"])
@BOTH
def test_a_name_is_both_kinds_of_address_on_one_port(host: str) -> None:
    with listening(host) as sockets:
        (port,) = ports(sockets)
        for address in ("127.0.0.1", "::1"):
            with closing(socket.create_connection((address, port), 5)) as client:
                seen, _ = next(each for each in sockets if each.family == client.family).accept()
                assert seen.getpeername()[0] == address, "not ::ffff:127.0.0.1"
                seen.close()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:{}"),
        ("127.0.0.1", "http://127.0.0.1:{}"),
        ("0.0.0.0", "http://localhost:{}"),
        ("0", "http://localhost:{}"),
    ],
)
def test_an_address_is_told_as_people_type_it(host: str, url: str) -> None:
    with listening(host) as sockets:
        (port,) = ports(sockets)
        assert url_of(host, sockets) == url.format(port)


@BOTH
def test_an_ipv6_address_is_told_in_brackets() -> None:
    with listening("::1") as sockets:
        assert url_of("::1", sockets) == f"http://[::1]:{ports(sockets).pop()}"


def test_where_there_is_one_kind_of_address_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def only_ipv4(family: int = -1, *rest: int, **named: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest, **named)

    monkeypatch.setattr("app.serving.listening.socket.socket", only_ipv4)
    with listening("localhost") as sockets:
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1"]
    with pytest.raises(CannotListen, match="'::1' is not an address of this machine"):
        listen("::1", 0)


@pytest.mark.parametrize("taken", ["127.0.0.1", pytest.param("::1", marks=BOTH)])
def test_a_port_in_use_suggests_one_that_is_free(taken: str) -> None:
    with listening(taken) as sockets:
        (port,) = ports(sockets)
        with pytest.raises(CannotListen, match=f"port {port} is in use at 'localhost'") as told:
            listen("localhost", port)
        free = int(str(told.value).split("PORT=")[1].split()[0])
        with listening("localhost", free) as others:
            assert ports(others) == {free}


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("nobody.invalid", "no such host: 'nobody.invalid'"),
        ("192.0.2.1", "'192.0.2.1' is not an address of this machine"),  # TEST-NET-1
        ("a" * 300, "no such host: 'aaa"),
    ],
)
def test_where_nobody_can_listen_is_said(host: str, message: str) -> None:
    with pytest.raises(CannotListen, match=message):
        listen(host, 0)
