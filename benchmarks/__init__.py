"""Measurements: `serving` (`make bench`) beside `peers`; `latents`, for the docs."""
