"""Stable Diffusion on a CPU beside diffusers: `python -m benchmarks.stable_diffusion`."""
