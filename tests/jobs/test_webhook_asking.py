"""What requests and settings may say of webhooks."""

from typing import Any

import pytest
from pydantic import ValidationError

from app.errors import InvalidRequest
from app.http.addresses import Allowance
from app.jobs.webhooks.asking import NATIVE, REPLICATE, Asking
from app.settings import Settings
from tests.jobs.desk import SECRETS


def test_a_server_without_a_secret_takes_no_webhook() -> None:
    asking = Asking(Allowance(), signed=False)
    with pytest.raises(InvalidRequest, match="DARKROOM_WEBHOOK_SECRETS"):
        asking.webhook({"webhook": "https://example.com/"}, NATIVE)
    assert asking.webhook({}, NATIVE) is None
    assert asking.webhook({"webhook": None, "webhook_events": []}, NATIVE) is None


def test_events_are_named_in_the_words_of_the_api() -> None:
    asking, url = Asking(Allowance(), signed=True), "https://example.com/"

    def events(words: Any, value: object) -> tuple[str, ...]:
        taken = asking.webhook({"webhook": url, words.field: value}, words)
        assert taken is not None
        return taken.events

    assert events(NATIVE, None) == ("succeeded", "failed", "canceled")
    assert events(NATIVE, ["failed", "started", "failed"]) == ("failed", "started")
    assert events(NATIVE, "failed,started") == ("failed", "started")
    assert events(REPLICATE, None) == ("start", "output", "logs", "completed")
    assert events(REPLICATE, ["completed"]) == ("completed",)
    for words, value in (
        (NATIVE, ["completed"]),
        (REPLICATE, ["succeeded"]),
        (NATIVE, "all"),
        (NATIVE, [7]),
        (NATIVE, [["failed"]]),
        (NATIVE, {"failed": 1}),
        (NATIVE, 7),
    ):
        with pytest.raises(InvalidRequest, match=f"{words.field}: must be a list of some of"):
            events(words, value)
    with pytest.raises(InvalidRequest, match="webhook_events: needs a webhook"):
        asking.webhook({"webhook_events": ["failed"]}, NATIVE)


def test_the_settings_refuse_what_is_no_secret_and_do_not_repeat_it() -> None:
    assert len(Settings(webhook_secrets=",".join(SECRETS)).webhook_secrets) == 2
    for text in ("whsec_c2hvcnQ=", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_ä"):
        with pytest.raises(ValidationError, match="24 to 64 random bytes") as raised:
            Settings(webhook_secrets=text)
        assert text not in "".join(entry["msg"] for entry in raised.value.errors())


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "0x7f.1", "a b", "http://x", "*", "1.2.3", "::g"])
def test_the_settings_refuse_what_is_no_host(entry: str) -> None:
    with pytest.raises(ValidationError, match="or a network such as"):
        Settings(webhook_allow=entry)
    with pytest.raises(ValueError, match=r"is none of these|not"):
        Allowance.of([entry])
