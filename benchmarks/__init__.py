"""Measurements: each module is one command and writes one table to benchmarks/results/."""
