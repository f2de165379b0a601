"""The peer of the tutorials: FastAPI, and a lock around a model that draws one image at a time.

python -m benchmarks.peers.lock --port 8001
python -m benchmarks.peers.lock --port 8001 --threads 2
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import click
import torch
import uvicorn
from fastapi import FastAPI, Response

from benchmarks.peers.sampling import Body, Digits, best_device


def locked_app() -> FastAPI:
    """Requests in FastAPI's pool of threads, PyTorch's own thread settings, one lock."""
    app, digits, lock = FastAPI(), Digits(best_device()), threading.Lock()

    @app.post("/generate")
    def generate(body: Body) -> Response:
        with lock:
            (png,) = digits.draw([body])
        return Response(png, media_type="image/png")

    return app


def tuned_app(threads: int) -> FastAPI:
    """The same, but one thread draws every image, with `threads` PyTorch threads under it."""
    app, digits = FastAPI(), Digits(best_device())
    drawer = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))

    @app.post("/generate")
    async def generate(body: Body) -> Response:
        (png,) = await asyncio.get_running_loop().run_in_executor(drawer, digits.draw, [body])
        return Response(png, media_type="image/png")

    return app


@click.command()
@click.option("--port", type=int, envvar="PORT", required=True)
@click.option("--threads", type=int, help="Draw in one thread, with this many PyTorch threads.")
def main(port: int, threads: int | None) -> None:
    """Serve the digits."""
    app = tuned_app(threads) if threads else locked_app()
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main()
