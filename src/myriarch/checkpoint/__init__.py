"""Where snapshots lie, when they are safe, and what to restore from. Pure machines: agents move the bytes."""
