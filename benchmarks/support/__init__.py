"""Parts that the scripts of this folder share."""
