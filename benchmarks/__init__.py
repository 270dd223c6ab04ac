"""Benchmarks of our parts against a named peer or limit, both measured in one run. `make bench` runs them."""
