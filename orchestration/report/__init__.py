"""The command `python -m orchestration.report`, and the report at the end of a run."""
