"""Calls to the addresses that jobs name: who may be called, how they are signed, and when again."""
