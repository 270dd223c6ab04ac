"""What a run writes down, and how its files are read back."""
