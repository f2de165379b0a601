"""What runs a model's networks: one file a kind of device, one interface (base.py)."""
