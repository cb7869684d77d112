"""A sampling task: what is loaded, how a batch of it is made, and the run around it."""
