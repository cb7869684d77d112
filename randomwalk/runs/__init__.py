"""Runs of every program: folder, session, checkpoints, interruption."""
