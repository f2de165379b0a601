"""Measurements: `serving` (`make bench`) beside `locked`, its peer; `latents`, for the docs."""
