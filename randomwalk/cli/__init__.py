"""Command line: `randomwalk sample | train | restore | compare | check`."""
