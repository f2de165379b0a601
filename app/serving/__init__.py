"""The server: sockets, connections, and how it starts and ends."""
