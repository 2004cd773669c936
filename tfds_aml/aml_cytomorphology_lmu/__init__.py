"""AML-Cytomorphology_LMU (Matek et al. 2019) as a TFDS data set."""
