"""The server with the worker of deadly_worker.py."""

import signal
import sys

import uvicorn

from app.engine.client import EngineClient
from app.engine.process import WorkerProcess
from app.engine.wire import Load
from app.main import create_app, create_engine
from app.settings import Settings

COMMAND = (sys.executable, "-m", "tests.e2e.deadly_worker")


def start(load: Load) -> WorkerProcess:
    return WorkerProcess(load, COMMAND)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = Settings()
    usual = create_engine(settings)
    engine = EngineClient(usual._load, usual._ledger.limits, start)
    uvicorn.run(create_app(settings, engine), port=settings.port, log_level="warning")
