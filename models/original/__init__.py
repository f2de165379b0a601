"""The layout of CompVis, Stability AI and OpenCLIP, as names and shapes of diffusers'."""
