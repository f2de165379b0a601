"""Backends, which run a model's networks: one file per kind of device, one interface (base.py).

Importing OpenVINO sends a report to its makers where it finds the package it does that with. Where
that is missing it does without: a server is not to tell anyone that it runs.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now fails
