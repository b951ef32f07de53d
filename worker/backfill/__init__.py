"""Replays a range through the same pipeline: what is asked for, where it lies, what it would do, what it did."""
