"""The webhooks of a server, as its settings say, and what they are told."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from sqlalchemy.engine import Connection

from app.http.addresses import Allowance
from app.jobs.job import Job, Webhook
from app.jobs.service import JobService
from app.jobs.webhooks.asking import Vocabulary
from app.jobs.webhooks.outbox import Bounds
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.service import Options, Webhooks
from app.routes.jobs.schemas import JobOut
from app.routes.replicate.telling import DIALECT, call_body, noted_body
from app.settings import Settings


def create_webhooks(settings: Settings, service: JobService) -> Webhooks:
    """Webhooks of the jobs of a service, which notes every end with them."""
    options = Options(
        secrets=[secret.get_secret_value() for secret in settings.webhook_secrets],
        unsigned=settings.webhook_unsigned,
        allowance=Allowance.of(settings.webhook_allow),
        schedule=Schedule(settings.webhook_attempts, settings.webhook_retry_seconds),
        seconds=settings.webhook_timeout_seconds,
        bounds=Bounds(
            settings.webhook_calls, settings.webhook_host_calls, settings.webhook_client_calls
        ),
        kept=settings.webhook_kept_seconds,
    )

    def body(_: Connection, job: Job) -> str:
        if job.dialect == DIALECT:
            return noted_body(job)
        return JobOut.of(job, None, service, settings.root_path).model_dump_json()

    def sent(connection: Connection, job: Job) -> str:
        return call_body(connection, job) if job.dialect == DIALECT else body(connection, job)

    webhooks = Webhooks(service.store.database, options, body, sent=sent)
    service.store.noted = webhooks.note
    return webhooks


def webhooks_of(request: Request) -> Webhooks:
    """The webhooks of this server."""
    webhooks = request.app.state.webhooks
    assert isinstance(webhooks, Webhooks)
    return webhooks


def webhook_of(request: Request, values: Mapping[str, Any], words: Vocabulary) -> Webhook | None:
    """The webhook that a request names, in the words of its API; raises `InvalidRequest`."""
    return webhooks_of(request).asking.webhook(values, words)
