"""Rewards of completions: the built-in format and answer rewards, the user's own, and the processes that grade."""

from rollout.rewards.built_in import answer_reward, format_reward

__all__ = ["answer_reward", "format_reward"]
