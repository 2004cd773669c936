"""The Barcelona data set of peripheral blood cells (Acevedo et al. 2020) as a TFDS data set."""
