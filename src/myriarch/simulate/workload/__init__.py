"""Workloads: traces in their original formats, generators fitted to them, and tasks made of either."""
