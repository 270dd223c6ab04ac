"""One vLLM engine in a Ray actor, and how weights reach it."""
