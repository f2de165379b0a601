"""What no schema says of a request, put right before it is sent.

How long drawing takes: a deadline that is allowed becomes the longest. That an interval begins
before it ends; what eta and what spacings a sampler takes. With QUICK set, also what costs time and
shows nothing: many steps, many images. A right Idempotency-Key is made one that no other request
had. Schemathesis loads this by SCHEMATHESIS_HOOKS.
"""

import os
import re
import uuid
from typing import Any

import schemathesis

from models.sampling import SAMPLERS, SPACINGS

MOST = {"steps": 12, "num_inference_steps": 12, "n": 2, "num_outputs": 2, "batch_size": 2}


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    key = "Idempotency-Key"
    if case.headers and re.fullmatch('"[ !#-Z^-~]+"', str(case.headers.get(key))):
        case.headers[key] = f'"{uuid.uuid4()}"'
    for values in (case.body, case.query):
        if not isinstance(values, dict):
            continue
        for part in (values, values.get("input"), values.get("parameters")):
            if isinstance(part, dict):
                mend(part)


def mend(values: dict[str, Any]) -> None:
    if 0 < number(values.get("timeout")) < 3600:
        values["timeout"] = 3600
    interval = values.get("guidance_interval")
    if isinstance(interval, str) and len(ends := interval.split(",")) == 2:
        values["guidance_interval"] = ",".join(sorted(ends, key=number))
    if isinstance(interval, list) and all(0 <= number(end) <= 1 for end in interval):
        values["guidance_interval"] = sorted(interval, key=number)
    sampler = SAMPLERS.get(str(values.get("sampler")))
    if sampler and not sampler.eta and 0 < number(values.get("eta")) <= 1:
        values["eta"] = 0
    own = sampler.spacings if sampler else SPACINGS[:1]  # the model's own is ddim
    if values.get("spacing") in SPACINGS and values["spacing"] not in own:
        values["spacing"] = own[0]
    if "QUICK" in os.environ:
        for name, most in MOST.items():
            if most < number(values.get(name)) <= (1000 if "steps" in name else 16):
                values[name] = most


def number(value: Any) -> float:
    try:
        return -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return -1.0
