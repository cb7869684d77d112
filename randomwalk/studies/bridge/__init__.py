"""Schroedinger bridges between two sets of points, by diffusion Schroedinger bridge matching.

In reading order:

    gaussian             the bridge between two Gaussians in closed form, and the exact iteration towards it
    matching             the Brownian bridge, the drift of a network, and its loss
    simulation           the Euler-Maruyama method, and the flow with the same marginals
    ends, model          the two end distributions; both drifts and their file
    trainer              the iteration
    measures             errors of a bridge
    figures              figures and the animation
    training, sampling   the runs behind train.py and sample.py

Shi, De Bortoli, Campbell and Doucet, "Diffusion Schroedinger bridge matching", 2023, arXiv 2303.16852.
"""
