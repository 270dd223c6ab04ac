"""The command `python -m orchestration.plan`: memory, time and scaling of a run before it runs."""
