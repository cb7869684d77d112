"""Whole subjects on the rooms below: points in the plane, Schroedinger bridges, score embedding."""
