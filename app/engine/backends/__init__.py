"""Backends, which run a model's networks: one file per kind of device, one interface (base.py).

Importing OpenVINO sends a report to its makers if it finds the package for that. If the package is
missing, it goes on without it: a server must not tell anyone that it runs.
"""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import now fails
