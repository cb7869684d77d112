"""Samplers of the posterior ``p(x | y)``, one file each, with its equations, its source and its bias."""
