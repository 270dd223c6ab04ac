"""Replacement of what dies or is stuck: engines one by one, the learner by a rewind to its newest checkpoint."""
