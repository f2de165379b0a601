"""Jobs: asked for, listed, cancelled, and their results."""
