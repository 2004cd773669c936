"""Leukocyte data sets for TensorFlow Datasets.

After `import tfds_aml`, `tfds.load("aml_cytomorphology_lmu")` and `tfds.load("pbc_barcelona")` find
their builders. `tfds build <name> --imports tfds_aml` finds them, too.

The builders register when TensorFlow Datasets is imported (or at once if it already is). Until
then this package loads no TensorFlow, so that commands like the synthetic smear start fast.
"""

import importlib

import wrapt

import leuko_tf  # noqa: F401  # prepares commands: `leuko_tf.startup`

DATASETS = ("aml_cytomorphology_lmu", "pbc_barcelona")


def _register_builders(_tfds: object) -> None:
    for name in DATASETS:
        importlib.import_module(f"tfds_aml.{name}.{name}_dataset_builder")


wrapt.register_post_import_hook(_register_builders, "tensorflow_datasets")
