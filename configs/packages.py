"""The packages of softgate: the one list, for set-up, the architecture test and error messages."""

PACKAGES = ("configs", "gates", "transfer", "rollout", "learner", "orchestration")
