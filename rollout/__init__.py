"""Generation side: vLLM engines, prompts, rewards and grading. Imports nothing of the learner."""
