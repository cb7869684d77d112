"""Images: in and out of files, as tensors, and measured."""
