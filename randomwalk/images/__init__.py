"""Images: files, tensors, figures of merit and sheets of tiles."""
