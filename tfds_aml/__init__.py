"""Leukocyte data sets for TensorFlow Datasets.

After `import tfds_aml`, `tfds.load("aml_cytomorphology_lmu")` finds the builder, and so does
`tfds build aml_cytomorphology_lmu --imports tfds_aml`.

The import itself is light: the builders register at the moment TensorFlow Datasets is imported
(at once, if it already is), so that drawing a synthetic smear does not wait for TensorFlow.
"""

import importlib
import sys

import wrapt

from leuko_tf.extras import explain_missing_packages

# Python's sign that `python -m tfds_aml.x` is looking for its module: a command, not an import.
if sys.argv[:1] == ["-m"]:
    explain_missing_packages()


def _register_builders(_tfds: object) -> None:
    importlib.import_module(
        "tfds_aml.aml_cytomorphology_lmu.aml_cytomorphology_lmu_dataset_builder"
    )


wrapt.register_post_import_hook(_register_builders, "tensorflow_datasets")
