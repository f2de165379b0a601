"""What is the same for every route: what surrounds a request, and how bodies are read and told."""
