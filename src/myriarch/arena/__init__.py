"""Shared memory that a node's agent owns: snapshot slots with hashed blocks, and progress beacons."""
