"""Statistics of results: arrays of numbers in, estimates with intervals out. Imports numpy only."""
