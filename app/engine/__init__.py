"""Step-level batching: requests that differ in everything but the model share a UNet forward."""
