"""Command line: `randomwalk sample | train | restore | check`."""
