"""The peer that batches whole requests: LitServe over diffusers' modules.

python -m benchmarks.peers.litserve_server --port 8002
"""

from collections import defaultdict
from typing import Any

import click
import litserve
from fastapi import Response

from benchmarks.peers.sampling import Body, Digits


class DigitsAPI(litserve.LitAPI):
    """Takes what waits as one batch; requests with the same number of steps are drawn together."""

    def setup(self, device: str) -> None:
        self.digits = Digits(device)

    def decode_request(self, request: dict[str, Any]) -> Body:
        return Body.model_validate(request)

    def batch(self, inputs: list[Body]) -> list[Body]:
        return inputs

    def predict(self, batch: list[Body]) -> list[bytes]:
        groups = defaultdict(list)
        for index, body in enumerate(batch):
            groups[body.steps].append(index)
        images = [b""] * len(batch)
        for indices in groups.values():
            drawn = self.digits.draw([batch[i] for i in indices])
            for index, png in zip(indices, drawn, strict=True):
                images[index] = png
        return images

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Response:
        return Response(output, media_type="image/png")


@click.command()
@click.option("--port", type=int, envvar="PORT", required=True)
@click.option("--batch-size", default=64, show_default=True, help="Most requests of one batch.")
@click.option("--batch-seconds", default=0.03, show_default=True, help="Wait for a batch to fill.")
def main(port: int, batch_size: int, batch_seconds: float) -> None:
    """Serve the digits."""
    api = DigitsAPI(max_batch_size=batch_size, batch_timeout=batch_seconds, api_path="/generate")
    server = litserve.LitServer(api, devices=1, workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
