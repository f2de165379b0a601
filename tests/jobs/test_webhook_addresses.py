"""Which addresses webhooks may have: as they are named, and as they are looked up."""

import asyncio
import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import InvalidRequest
from app.http.addresses import Address, Allowance, host_of, is_public
from app.jobs.job import Webhook
from app.jobs.webhooks.asking import NATIVE, Asking
from tests.engine import asynchronous
from tests.jobs.desk import QUICK, Lookup, desk, job_of
from tests.jobs.receivers import OK, Receiver, receiving, status

PRIVATE = """
127.0.0.1 127.8.9.1 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254
100.64.0.1 100.127.255.254 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255 192.88.99.1 :: ::1 ::ffff:8.8.8.8 ::ffff:127.0.0.1
::8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::a00:1 2002:7f00:1::1 2002:808:808::1
2001::1 2001:db8::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 100::1
"""


@pytest.mark.parametrize("text", PRIVATE.split())
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    wrong = wrong_of(f"http://{host}/")
    assert "DARKROOM_WEBHOOK_ALLOW" in wrong
    allowing = Asking(Allowance.of([text]), signed=True)
    assert allowing.webhook({"webhook": f"https://{host}:8443/x"}, NATIVE)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1"]
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def wrong_of(url: object, **more: object) -> str:
    asking = Asking(Allowance(), signed=True)
    with pytest.raises(InvalidRequest) as raised:
        asking.webhook({"webhook": url, **more}, NATIVE)
    return raised.value.wrong["webhook"]


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://1.2.3/",
        "http://256.1.1.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost:80/",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com/#part",
        "http://example.com/#",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:00004431234/",
        "http://8.8.8.8:0000080000/",
        "http://example.com:8x/",
        "http://example.com:+8/",
        "http://example.com:8 /",
        "http://exa mple.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com/\r\nHost: x",
        "http://example.com/\u00e9",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://ex%61mple.com/",
        "http://example..com/",
        "http://-example.com/",
        "http://" + "a" * 64 + ".com/",
        "http:///path",
        "http:example.com",
        "//example.com/",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://example.com/" + "a" * 2048,
        " https://example.com/",
        7,
        ["https://example.com/"],
        {"url": "https://example.com/"},
        True,
    ],
)
def test_addresses_of_webhooks_that_are_refused(url: object) -> None:
    wrong = wrong_of(url)
    assert "allowed: " in wrong or "must be a URL" in wrong
    assert len(wrong) < 400
    assert "\n" not in wrong


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com"),
        ("HTTPS://Example.COM.:8443/a/b?c=d&e=%20", "example.com"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://a_b.example:1/", "a_b.example"),
        ("https://[2606:4700::1]:443/", ipaddress.ip_address("2606:4700::1")),
        ("https://8.8.8.8/", ipaddress.ip_address("8.8.8.8")),
    ],
)
def test_addresses_of_webhooks_that_are_taken(url: str, host: object) -> None:
    from app.jobs.webhooks.targets import Target

    taken = Asking(Allowance(), signed=True).webhook({"webhook": url}, NATIVE)
    assert taken == Webhook(url, NATIVE.default)
    assert Target.parse(url).host == host


def test_names_and_networks_that_are_allowed() -> None:
    allowance = Allowance.of(["hooks.internal", "10.1.0.0/16", "fd00::/8", "[::1]", "LocalHost"])
    one, two, three = map(ipaddress.ip_address, ("10.1.2.3", "10.2.0.1", "fd12::1"))
    assert allowance.permits("anything.example", one)
    assert not allowance.permits("anything.example", two)
    assert allowance.permits("hooks.internal", two)
    assert allowance.permits("anything.example", three)
    asking = Asking(allowance, signed=True)
    assert asking.webhook({"webhook": "http://localhost:9/"}, NATIVE)


def test_hosts_are_names_or_addresses() -> None:
    assert host_of("EXAMPLE.com.") == "example.com"
    assert host_of("[::1]") == ipaddress.ip_address("::1")
    for text in ("", ".", "a..b", "1.2.3.04", "0x1", "a.0x1", "a.1"):
        with pytest.raises(ValueError, match=r".+"):
            host_of(text)


# A name is looked up once, and what it had then is what is called.


@asynchronous
async def test_a_name_that_has_another_address_the_second_time_leads_nowhere(
    tmp_path: Path,
) -> None:
    async with receiving(status(500)) as receiver:
        trap = Receiver([OK])
        server = await asyncio.start_server(trap.serve, "127.0.0.2", receiver.port)
        lookup = Lookup([["127.0.0.1"], ["127.0.0.2"]])
        async with desk(tmp_path, resolve=lookup) as at:
            await at.note(job_of(f"http://rebound.example.com:{receiver.port}/"))
            told = await at.ends()
            assert (told.attempts, told.error) == (4, "the host has no address that may be called")
        assert receiver.connections == 1
        assert receiver.received[0].headers["host"] == f"rebound.example.com:{receiver.port}"
        assert lookup.asked == ["rebound.example.com"] * 4  # once for each attempt
        assert trap.connections == 0
        server.close()


@asynchronous
async def test_only_the_addresses_of_a_name_that_may_be_called_are(tmp_path: Path) -> None:
    """Also where the first one has nobody: the next is tried."""
    async with receiving() as receiver:
        options = replace(QUICK, allowance=Allowance.of(["127.0.0.1", "127.0.0.9"]))
        lookup = Lookup([["10.0.0.1", "127.0.0.9", "::ffff:127.0.0.1", "127.0.0.1"]])
        async with desk(tmp_path, options, lookup) as at:
            await at.note(job_of(f"http://both.example.com:{receiver.port}/"))
            told = await at.ends()
            assert (told.state, told.attempts) == ("delivered", 1)


@asynchronous
async def test_a_name_that_nobody_has_is_a_failure(tmp_path: Path) -> None:
    class Missing(Lookup):
        async def __call__(self, host: str, port: int) -> list[Address]:
            raise OSError("no such name")

    async with desk(tmp_path, resolve=Missing([])) as at:
        await at.note(job_of("https://missing.example.com/"))
        assert (await at.ends()).error == "the host is not found"
