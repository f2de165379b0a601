"""The engine for given settings, to be launched before the rest of the server is imported."""

from app.engine.client import EngineClient
from app.engine.ledger import Limits
from app.engine.watchdog import Upkeep
from app.engine.wire import Load
from app.settings import Settings


def create_engine(settings: Settings) -> EngineClient:
    """An engine for these settings, not yet launched."""
    load = Load(
        models={name: str(folder) for name, folder in settings.folders.items()},
        device=settings.device,
        dtype=settings.dtype,
        backend=settings.backend,
        compile=settings.compile,
        slots=settings.slots,
        rows=settings.rows,
        sizes=settings.sizes,
        prediction=settings.prediction,
        log_format=settings.log_format,
    )
    limits = Limits(settings.max_jobs, settings.max_work_seconds, settings.timeout_seconds)
    upkeep = Upkeep(settings.hang_seconds, settings.load_seconds, settings.require_all_models)
    return EngineClient(load, limits, upkeep=upkeep, keeping=settings.keeping)
