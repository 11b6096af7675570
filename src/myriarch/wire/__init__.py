"""Authenticated frames and byte streams between processes, and the messages they carry."""
