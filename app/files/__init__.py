"""Pictures as files: made, read, named."""
