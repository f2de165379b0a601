"""What a request says of its webhook: checked when the job is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest
from app.http.addresses import Allowance
from app.jobs.job import Job, JobStatus, Webhook
from app.jobs.webhooks.targets import check_url

WEBHOOK = "webhook"
_UNSIGNED = (
    "this server has no secret to sign calls with; its operator can set DARKROOM_WEBHOOK_SECRETS, "
    "or allow calls without a signature by DARKROOM_WEBHOOK_UNSIGNED=true"
)


@dataclass(frozen=True)
class Vocabulary:
    """How an API says which events it wants: the field, the names, and those meant by none."""

    field: str
    names: tuple[str, ...]
    default: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, str]:
        """The fields of a request that are about its webhook."""
        return WEBHOOK, self.field


_ENDS = tuple(status.value for status in JobStatus if status.ended)
NATIVE = Vocabulary("webhook_events", ("started", *_ENDS), _ENDS)
# https://replicate.com/docs/topics/webhooks/setup-webhook
_OF_REPLICATE = ("start", "output", "logs", "completed")
REPLICATE = Vocabulary("webhook_events_filter", _OF_REPLICATE, _OF_REPLICATE)


def happened(job: Job) -> tuple[str, ...]:
    """What a change made of a job, in the words of every API, the weightiest first."""
    if job.status is JobStatus.RUNNING:
        return ("started", "start")
    if not job.status.ended:
        return ()
    output = ("output",) if job.status is JobStatus.SUCCEEDED else ()
    return ("completed", job.status.value, *output, *(("logs",) if job.told else ()))


@dataclass(frozen=True)
class Asking:
    """Which webhooks a request may name here."""

    allowance: Allowance
    signed: bool  # or allowed without a signature

    def webhook(self, values: Mapping[str, Any], words: Vocabulary) -> Webhook | None:
        """The webhook that the fields of a request name, if they name one.

        Raises:
            InvalidRequest: they are wrong, or webhooks are not to be had here.
        """
        url, events = (values.get(name) for name in words.fields)
        if url in (None, ""):
            if events not in (None, "", []):
                raise InvalidRequest({words.field: "needs a webhook, the URL that is told"})
            return None
        wrong = {}
        if reason := self._refusal(url):
            wrong[WEBHOOK] = reason
        named = events.split(",") if isinstance(events, str) and events else events or []
        if not isinstance(named, list) or not all(name in words.names for name in named):
            wrong[words.field] = f"must be a list of some of: {', '.join(words.names)}"
        if wrong:
            raise InvalidRequest(wrong)
        return Webhook(url, tuple(dict.fromkeys(named)) or words.default)

    def _refusal(self, url: object) -> str | None:
        """Why a URL is not called."""
        if not isinstance(url, str):
            return "must be a URL, as text"
        if not self.signed:
            return _UNSIGNED
        try:
            check_url(url, self.allowance)
        except ValueError as error:
            return str(error)
        return None
