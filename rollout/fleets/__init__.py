"""Several engines behind one interface: which prompt goes where, and when."""
