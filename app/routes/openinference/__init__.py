"""The Open Inference Protocol's view of the models."""
