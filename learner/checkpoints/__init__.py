"""The learner's state and its model as files."""
