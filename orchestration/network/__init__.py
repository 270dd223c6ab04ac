"""Ray's processes as a run's surroundings: where they listen, whether they live, what they leave on the disk."""
