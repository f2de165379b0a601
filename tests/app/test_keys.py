"""Keys as they are written down, found again, and counted where they are wrong."""

import base64
import hashlib
import logging
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.access.allowance import Allowance, Rate
from app.access.credentials import presented
from app.access.failures import MOST_ADDRESSES, PER_MINUTE, Failures
from app.access.keyring import Keyring
from app.access.keys import Key, make_key, read_key, read_keys
from app.cli.main import cli
from app.settings import Settings

SECRET = "dk_" + "abcdefghij" * 4
HASH = "sha256:" + hashlib.sha256(SECRET.encode()).hexdigest()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_is_random_and_is_found_by_its_line() -> None:
    made = [make_key("alice") for _ in range(100)]
    assert len({secret for secret, _ in made}) == 100
    assert all(len(secret) == 46 for secret, _ in made)
    secret, key = made[0]
    assert key.line() == f"alice: sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    assert secret not in repr(key)
    assert key.digest.hex() not in repr(key)
    found = Keyring([read_key(key.line())]).find([secret.encode()])
    assert found is not None
    assert found.client == "key:alice"


def test_a_line_may_say_what_differs_for_a_key() -> None:
    keys = read_keys(
        [
            "# whose, and what",
            "",
            f"alice: {HASH}",
            f"bob:sha256:{'AB' * 32}  rate=500/10seconds max_priority=5 # of the night shift",
            f"c.d-e_1:   sha256:{'0' * 64} admin concurrency=100 rate=none",
        ]
    )
    assert [key.name for key in keys] == ["alice", "bob", "c.d-e_1"]
    server = Allowance(Rate(7, 1), 8)
    assert [key.allowance(server) for key in keys] == [
        server,
        Allowance(Rate(500, 10), 8),
        Allowance(None, 100),
    ]
    assert [key.max_priority for key in keys] == [None, 5, None]
    assert [key.admin for key in keys] == [False, False, True]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (SECRET, "line 1: not a key with its name; allowed: NAME: sha256:HASH"),
        ("alice:", "line 1: not a key with its name"),
        (f": {HASH}", "'' is not a name of a key"),
        (f"a/b: {HASH}", "'a/b' is not a name of a key; allowed: 1 to 64 letters"),
        (f"{'x' * 65}: {HASH}", "is not a name of a key"),
        (f"alice: {SECRET}", "alice: not a hash; allowed: sha256: and 64 hexadecimal digits"),
        (f"alice: sha256:{'0' * 63}", "alice: not a hash"),
        (f"alice: {'0' * 64}", "alice: 64 hexadecimal digits may be a key or a hash"),
        (f"alice: {HASH} {SECRET}", "alice: 'dk_abcde' is not an option of a key; allowed: rate="),
        (f"alice: {HASH} admin=no", "'admin' is not an option"),
        (f"alice: {HASH} rate=", "alice: rate: '' is not a rate; allowed: such as 20000/minute"),
        (f"alice: {HASH} rate=0/minute", "is not a rate"),
        (f"alice: {HASH} rate=5/second;9/minute", "is not a rate"),
        (f"alice: {HASH} rate={'9' * 5000}/minute", "is not a rate"),
        (f"alice: {HASH} rate=5/9999year", "is not a rate"),
        (f"alice: {HASH} concurrency=0", "concurrency: must be a whole number from 1"),
        (f"alice: {HASH} concurrency=²", "concurrency: must be a whole number from 1"),
        (f"alice: {HASH} max_priority=11", "max_priority: must be a whole number from 0 to 10"),
        (f"alice: {HASH} admin admin", "admin is given twice"),
        (f"alice: {HASH}\nalice: sha256:{'0' * 64}", "two keys are called 'alice'"),
        (f"alice: {HASH}\nbob: {HASH}", "'alice' and 'bob' are the same key"),
    ],
)
def test_a_wrong_line_is_told_without_the_key(line: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        read_keys(line.splitlines())
    assert SECRET[11:] not in str(error.value)
    assert len(str(error.value)) < 400


def test_plain_keys_of_the_environment_are_hashed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_API_KEYS", f"alice: {SECRET} admin, bob: sha256:{'0' * 64}")
    monkeypatch.setenv("DARKROOM_ADMIN_KEY", "x" + SECRET)
    settings = Settings()
    assert [key.name for key in settings.keyring().keys] == ["alice", "bob", "admin"]
    for secret in (SECRET, "x" + SECRET):
        assert settings.keyring().find([secret.encode()]) is not None
        assert secret not in repr(settings) + repr(vars(settings)) + repr(settings.keyring().keys)


@pytest.mark.parametrize("name", ["DARKROOM_API_KEYS", "DARKROOM_ADMIN_KEY"])
@pytest.mark.parametrize(
    "weak", ["secret-and-short", "ab" * 20, "0" * 64, f"{'ä' * 40}", "f" * 999]
)
def test_weak_keys_stop_the_server(monkeypatch: pytest.MonkeyPatch, name: str, weak: str) -> None:
    monkeypatch.setenv(name, f"alice: {weak}" if name == "DARKROOM_API_KEYS" else weak)
    with pytest.raises(ValidationError, match=r"darkroom key|SHA-256") as error:
        Settings()
    assert weak not in str(error.value)


def test_an_operator_is_told_of_both_admin_keys_and_of_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    monkeypatch.setenv("DARKROOM_API_KEYS_FILE", str(file))
    with pytest.raises(ValidationError, match=r"keys: No such file or directory"):
        Settings()
    file.write_text(f"\nalice: {SECRET}\n")
    with pytest.raises(ValidationError, match=r"keys: line 2: alice: not a hash") as error:
        Settings()
    assert SECRET not in str(error.value)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValidationError, match=r"keys: not UTF-8"):
        Settings()
    file.write_text(HASH)
    monkeypatch.delenv("DARKROOM_API_KEYS_FILE")
    monkeypatch.setenv("DARKROOM_ADMIN_KEY_FILE", str(file))
    found = Settings().keyring().find([SECRET.encode()])
    assert found is not None
    assert found.admin
    monkeypatch.setenv("DARKROOM_ADMIN_KEY", HASH)
    with pytest.raises(ValidationError, match="cannot both be set"):
        Settings()


def test_the_file_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(f"alice: {HASH}\n")
    ring = Keyring(file=file, clock=clock)

    def names() -> list[str]:
        clock.now += 2
        ring.find([b"anything"])
        return [key.name for key in ring.keys]

    assert names() == ["alice"]
    file.write_text(f"bob: {HASH}\n# and more\n")
    assert names() == ["bob"]
    with caplog.at_level(logging.ERROR):
        file.write_text(f"bob: {SECRET}\n")
        assert names() == ["bob"]  # what is wrong changes nothing
        file.unlink()
        assert names() == ["bob"]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 2
    assert SECRET not in caplog.text
    other = tmp_path / "other"  # as Kubernetes changes a secret: a link leads elsewhere
    other.write_text("")
    file.symlink_to(other)
    assert names() == []
    assert ring.required, "a file without keys opens nothing"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}"},
        {"authorization": f"bearer  {SECRET} "},
        {"authorization": f"Token {SECRET}"},
        {"authorization": f"Basic {encoded('anybody:' + SECRET)}"},
        {"authorization": f"Basic {encoded(SECRET + ':')}"},
        {"authorization": f"Basic {encoded(':' + SECRET)}"},
        {"x-api-key": SECRET},
        {"authorization": "", "x-api-key": SECRET},
        {"authorization": "Basic dXNlcjp0aGUgcHJveHkncw==", "x-api-key": SECRET},
    ],
)
def test_a_key_is_found_wherever_clients_put_it(headers: dict[str, str]) -> None:
    ring = Keyring([read_key(f"alice: {HASH}")])
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert ring.find(presented(raw))


@pytest.mark.parametrize(
    ("headers", "some"),
    [
        ({}, False),
        ({"authorization": ""}, False),
        ({"authorization": "  "}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": "Digest realm=x"}, False),
        ({"x-api-key": ""}, False),
        ({"authorization": f"Bearer {SECRET}x"}, True),
        ({"authorization": "Basic ***"}, True),
        ({"authorization": f"Basic {encoded('no colon')}"}, True),
        ({"authorization": "Bearer " + "x" * 60000}, True),
        ({"x-api-key": HASH}, True),
    ],
)
def test_what_is_no_key_is_none(headers: dict[str, str], *, some: bool) -> None:
    ring = Keyring([read_key(f"alice: {HASH}")])
    sent = presented([(name.encode(), value.encode()) for name, value in headers.items()])
    assert bool(sent) is some
    assert ring.find(sent) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-api-key", b"accept"]),
            st.binary(max_size=64)
            | st.builds(
                lambda scheme, rest: scheme + b" " + rest,
                st.sampled_from([b"Basic", b"Bearer", b"Token", b"basic"]),
                st.binary(max_size=64) | st.binary(max_size=64).map(base64.b64encode),
            ),
        ),
        max_size=8,
    )
)
def test_no_header_is_more_than_a_wrong_key(headers: list[tuple[bytes, bytes]]) -> None:
    assert Keyring([read_key(f"alice: {HASH}")]).find(presented(headers)) is None


def test_wrong_keys_are_counted_by_address_and_forgiven_in_time() -> None:
    clock = Clock()
    failures = Failures(clock)
    assert [failures.note("a") for _ in range(PER_MINUTE)] == [0] * PER_MINUTE
    assert failures.note("a") == failures.note("a") == 60 / PER_MINUTE
    assert failures.note("b") == 0
    clock.now += 60 / PER_MINUTE
    assert failures.note("a") == 0
    assert failures.note("a") > 0
    clock.now += 60
    assert failures.note("a") == 0


def test_memory_for_wrong_keys_is_bounded() -> None:
    failures = Failures(Clock())
    tracemalloc.start()
    try:
        for number in range(5 * MOST_ADDRESSES):
            failures.note(f"2001:db8:{number:x}::/64")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2**20
    assert len(failures._due) == MOST_ADDRESSES


def test_the_command_prints_a_key_and_the_line_that_holds_its_hash() -> None:
    made: Any = CliRunner().invoke(cli, ["key", "alice"])
    assert made.exit_code == 0
    secret = made.stderr.rsplit(" ", 1)[1].strip()
    assert made.stdout == f"alice: sha256:{hashlib.sha256(secret.encode()).hexdigest()}\n"
    refused = CliRunner().invoke(cli, ["key", "a b"])
    assert refused.exit_code == 1
    assert "'a b' is not a name of a key" in refused.output


def test_a_key_has_a_name_that_no_address_has() -> None:
    assert Key("127.0.0.1", b"").client == "key:127.0.0.1"


def test_what_is_wrong_is_told_by_the_name_of_its_variable(tmp_path: Path) -> None:
    for name, value, told in [
        ("API_KEYS", f"alice: {HASH}, bob: hunter2", "DARKROOM_API_KEYS: key 2: bob: too weak"),
        ("API_KEYS_FILE", str(tmp_path), f"DARKROOM_API_KEYS_FILE: {tmp_path}: Is a directory"),
        ("ADMIN_KEY_FILE", str(tmp_path / "no"), "/no: No such file or directory"),
        ("ADMIN_KEY", "hunter2", "DARKROOM_ADMIN_KEY: too weak a key"),
        ("RATE", "fast", "DARKROOM_RATE: 'fast' is not a rate"),
    ]:
        ran: Any = CliRunner().invoke(cli, ["serve"], env={f"DARKROOM_{name}": value})
        assert ran.exit_code == 1
        assert told in ran.output
        assert "hunter2" not in ran.output
        assert ran.output.count("\n") == 1
