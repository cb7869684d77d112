"""Points in the plane: sets to learn, distances between sets, and pictures. A point is an image ``[2, 1, 1]``."""
