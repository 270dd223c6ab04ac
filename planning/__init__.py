"""What a run would cost before it runs: memory, times, and how both change with the number of GPUs."""
