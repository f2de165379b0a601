"""The server with the worker of deadly_worker.py."""

import sys

from app.engine.client import EngineClient
from app.engine.process import WorkerProcess
from app.engine.wire import Load
from app.launching import create_engine
from app.main import create_app
from app.serving.server import Server
from app.settings import Settings

COMMAND = (sys.executable, "-m", "tests.e2e.deadly_worker")


def start(load: Load) -> WorkerProcess:
    return WorkerProcess(load, COMMAND)


if __name__ == "__main__":
    settings = Settings()
    usual = create_engine(settings)
    engine = EngineClient(usual._load, usual._ledger.limits, start)
    Server(create_app(settings, engine), settings, engine).run()
