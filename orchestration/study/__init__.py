"""The command `python -m orchestration.study`: gates compared over seeds."""
