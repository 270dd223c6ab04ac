"""What comes before a run: its folder and the settings that it continues."""
