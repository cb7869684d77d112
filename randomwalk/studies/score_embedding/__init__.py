"""Score embedding: the Fokker-Planck equation of an image's log density, solved before a training and put into it.

The method of Na, Gao and Wan 2024, "Efficient Denoising using Score Embedding in Score-based Diffusion Models" (arXiv
2404.06661): each channel of a training image gets a density on the grid of its pixels, the density's log is followed
along the forward SDE, and the image is moved along the gradient before noise is added. That field is not a score in the
space of images, where the SDE and the network live: adding it to pixel values is a heuristic of the method. Here pixels
are u in [0, 1]; x = 2 u - 1 is what the rest of the program uses.
"""
