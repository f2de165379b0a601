"""The names of tables and ways that more than one module reads."""

PIXELS, BUCKETS = "Pixels", "Buckets"
OFF = "off the CPU's loop, at most, of 255"
RATES, LOOP, LAUNCH = "Rows per second", "Closed loop without a server", "Launching a tick"
FLOOR, ENGINE = "UNet alone, as a graph", "engine"
EAGER, COMPILED = "diffusers, eager", "diffusers, compiled"
LOAD, FAULTS = "Load", "Faults"
