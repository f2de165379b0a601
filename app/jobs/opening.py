"""The jobs of a server, as its settings say."""

from app.engine.client import EngineClient
from app.jobs.database import Database
from app.jobs.events import EventHub, StreamLimits
from app.jobs.results import Results
from app.jobs.service import JobService
from app.jobs.store import JobStore, Room
from app.settings import Settings


def create_jobs(settings: Settings, engine: EngineClient) -> JobService:
    """The service; nothing is opened yet."""
    room = Room(
        settings.jobs_max,
        settings.jobs_max_all,
        settings.jobs_evaluations,
        settings.jobs_evaluations_all,
    )
    store = JobStore(Database(settings.database_url), room)
    results = Results(store, settings.results, signed=settings.results_signed)
    lease, slots = settings.jobs_lease_seconds, settings.slots
    streams = StreamLimits(
        settings.max_streams, settings.max_client_streams, settings.jobs_keep_seconds
    )
    return JobService(engine, store, results, EventHub(store, streams), lease, slots)
