"""Denoisers: networks behind one interface, what is put around them, and their files."""
