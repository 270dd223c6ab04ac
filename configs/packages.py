"""Names of softgate's packages, for the set-up, the architecture test and error messages."""

PACKAGES = ("configs", "gates", "transfer", "rollout", "learner", "orchestration")
