"""The command `python -m orchestration.evaluate`: accuracy of a model on evaluation sets."""
