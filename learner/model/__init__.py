"""The policy: forward passes, logprobs, adapters, weights."""
