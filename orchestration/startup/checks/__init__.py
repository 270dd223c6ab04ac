"""Checks of what a run needs from its machine, each in well under a second and without starting anything."""
