"""The jobs of a server, as its settings say."""

import secrets

from app.engine.client import EngineClient
from app.jobs.database import Database
from app.jobs.events import EventHub
from app.jobs.executor import Terms
from app.jobs.keeping import Keeping, Retention
from app.jobs.keys import Keys
from app.jobs.recording import Sizes
from app.jobs.results import Results
from app.jobs.service import JobService
from app.jobs.store import JobStore, Room
from app.settings import Settings


def create_jobs(settings: Settings, engine: EngineClient) -> JobService:
    """The service; nothing is opened yet."""
    room = Room(
        settings.jobs_per_client,
        settings.jobs_in_all,
        settings.jobs_evaluations_per_client,
        settings.jobs_evaluations_in_all,
    )
    store = JobStore(Database(settings.database_url), room)
    results = Results(store, settings.results, signed=settings.results_signed)
    terms = Terms(
        secrets.token_hex(8), settings.jobs_lease_seconds, settings.slots, settings.max_loaded
    )
    sizes = Sizes(settings.idempotency_bytes_per_client, settings.idempotency_bytes_in_all)
    keys = Keys(store, terms.server, terms.lease, settings.idempotency_keys, sizes)
    retention = Retention(
        jobs=settings.jobs_keep_seconds,
        results=settings.results_seconds,
        answers=settings.idempotency_seconds,
        bytes=settings.results_bytes,
    )
    keeping = Keeping(store, results, keys, retention)
    hub = EventHub(store, kept=retention.jobs)
    return JobService(engine, store, results, hub, keys, keeping, terms)
