"""Checkpoints of a run: what is saved, when, and where."""
