"""What happened, what to do about it, and the log of both."""
