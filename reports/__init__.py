"""What runs and studies left in their folders, as pages and tables; starts nothing."""
