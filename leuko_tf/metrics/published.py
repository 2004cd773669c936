"""The figures of the published network and of its examiners, from `published_2019.yaml`."""

import functools
from importlib.resources import files
from typing import Any

import yaml


@functools.cache
def read_published_figures() -> dict[str, Any]:
    """Reads the file: `network` and `examiners`. The dict is cached; do not change it."""
    text = (files("leuko_tf.metrics") / "published_2019.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def read_examiner_points() -> dict[str, Any]:
    """Reads the re-annotations' operating points on the real images, by question and examiner.

    UNC counts as "no".
    """
    points = read_published_figures()["examiners"]["operating_points"]
    return {
        question: {column: both["all"] for column, both in by_column.items()}
        for question, by_column in points.items()
    }
