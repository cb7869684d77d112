"""Random streams of a training: ``generator(seed, STREAM, ...)`` with one of these numbers.

A number fixes all draws that were ever made with it: it is never changed or used again.
"""

WEIGHTS = 0
"""Initial weights."""
ORDER = 1
"""Order of the images, by epoch."""
AUGMENTATION = 2
"""Cut, scale and orientation of an image, by position."""
SPLIT = 3
"""Choice of the validation images."""
DROPOUT = 4
"""Dropout inside the network, by step and process."""
OFFSET = 5
"""Start of the low-discrepancy sequence of noise levels."""
NOISE = 6
"""Noise on the examples, by position; of points, the examples too, by position of the batch."""
VALIDATION = 7
"""Noise on the validation examples."""
SAMPLES = 8
"""Initial noise of the samples of a validation."""
LABEL_DROPOUT = 9
"""Choice of the examples whose label is dropped, by position."""
PROBES = 10
"""Probe vectors of score matching, by step."""
