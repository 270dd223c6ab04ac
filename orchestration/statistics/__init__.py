"""Statistics of results: intervals over seeds and problems, pass@k."""
