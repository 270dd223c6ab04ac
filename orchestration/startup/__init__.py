"""The start of a run: its folder, who owns it, and the checks before any process starts."""
