"""Denoisers: networks behind one interface, wrappers around them, and their files."""
