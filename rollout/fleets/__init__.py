"""Several engines behind one door: which prompt goes where, and when."""
