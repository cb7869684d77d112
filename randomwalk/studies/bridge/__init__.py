"""Schroedinger bridges between two sets of points, by diffusion Schroedinger bridge matching.

In reading order:

    gaussian             the bridge between two Gaussians in closed form, and the exact iteration towards it
    matching             the Brownian bridge, what a network stands for, and its loss
    simulation           Euler and Maruyama's method, and the flow with the same laws
    ends, model          the two laws; both drifts and their file
    trainer              the iteration
    measures             how right a bridge is
    figures              pictures and the animation
    training, sampling   what train.py and sample.py do with a bridge

Shi, De Bortoli, Campbell and Doucet, "Diffusion Schroedinger bridge matching", 2023, arXiv 2303.16852.
"""
