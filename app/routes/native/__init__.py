"""The native API, and Hugging Face's, which shares its answers."""
