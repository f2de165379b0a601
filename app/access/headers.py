"""`RateLimit` and `RateLimit-Policy`, as draft-ietf-httpapi-ratelimit-headers-11 has them."""

_NAME = '"default"'


def remaining(left: int, seconds: int) -> str:
    """What is left, and for how long it is counted; e.g. `"default";r=50;t=30`."""
    return f"{_NAME};r={max(left, 0)};t={max(seconds, 0)}"


def policy(most: int, window: int) -> str:
    """How much in how many seconds, in evaluations; e.g. `"default";q=100;w=60;qu="evaluations"`.

    The unit is last: huggingface_hub reads `q` and `w` in this order.
    """
    return f'{_NAME};q={most};w={window};qu="evaluations"'
