"""What an operator sees of the service: numbers, spans, and a line of the log for each request."""
