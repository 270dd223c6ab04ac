"""From prompts to graded batches: admission, buffers, order, recordings."""
