"""The most that one request may ask for, whatever the model could draw."""

from dataclasses import dataclass

from app.engine.job import MAX_IMAGES, MAX_STEPS, SamplingParams
from app.errors import InvalidRequest
from models.sizes import MAX_SIDE

# Of 16 images of 1,000 steps with guidance and two evaluations per step, and a little more.
MAX_EVALUATIONS = MAX_IMAGES * MAX_STEPS * 4
MAX_PIXELS = MAX_SIDE**2


@dataclass(frozen=True)
class RequestLimits:
    """By default, what a request can ask for at all."""

    pixels: int = MAX_PIXELS  # of one image
    steps: int = MAX_STEPS
    images: int = MAX_IMAGES
    evaluations: int = MAX_EVALUATIONS  # rows of the network, of all images together

    def check(self, params: SamplingParams) -> None:
        """Raise `InvalidRequest` unless a request may be this large; it names the settings."""
        wrong = {}
        if params.n > self.images:
            wrong["n"] = f"must be at most {self.images} here (DARKROOM_MAX_IMAGES)"
        if params.steps > self.steps:
            wrong["steps"] = f"must be at most {self.steps} here (DARKROOM_MAX_STEPS)"
        if params.width * params.height > self.pixels:
            told = f"{params.width}x{params.height} is too large; allowed: {self.pixels} pixels"
            wrong["width"] = f"{told} per image here (DARKROOM_MAX_PIXELS)"
        if not wrong and params.work > self.evaluations:
            told = f"asks for {params.work} evaluations (images times steps, twice where guided)"
            wrong[""] = f"{told}; allowed: {self.evaluations} here (DARKROOM_MAX_EVALUATIONS)"
        if wrong:
            raise InvalidRequest(wrong)


NO_LIMITS = RequestLimits()
