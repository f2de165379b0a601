"""The server of some checkout, over workers whose device takes no time.

python -P benchmarks/free_server.py CHECKOUT
"""

import sys
from pathlib import Path

_WORKER = (sys.executable, "-P", str(Path(__file__).with_name("free_worker.py")))


def main(checkout: str) -> None:
    """Serve on the port that the settings name."""
    sys.path.insert(0, checkout)
    from app.engine.client import EngineClient
    from app.engine.ledger import Limits
    from app.engine.process import WorkerProcess
    from app.engine.wire import Load
    from app.main import create_app
    from app.serving.server import Server
    from app.settings import Settings

    settings = Settings()
    load = Load({"free": ""}, "cpu", "float32", "auto", False, settings.slots, None)
    limits = Limits(settings.max_jobs, settings.max_work_seconds, settings.timeout_seconds)
    engine = EngineClient(load, limits, lambda load: WorkerProcess(load, _WORKER))
    Server(create_app(settings, engine), settings, engine).run()


if __name__ == "__main__":
    main(sys.argv[1])
