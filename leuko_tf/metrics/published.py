"""The published network's figures, and its examiners': the reference of every comparison.

They stand in `published_2019.yaml`, with their sources.
"""

import functools
from importlib.resources import files
from typing import Any

import yaml


@functools.cache
def read_published_figures() -> dict[str, Any]:
    """The data file as a dict, not to be changed: `network` and `examiners`."""
    text = (files("leuko_tf.metrics") / "published_2019.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def read_examiner_points() -> dict[str, Any]:
    """Question and re-annotation to sensitivity, specificity and precision on the real images.

    An uncertain answer counts as a no.
    """
    points = read_published_figures()["examiners"]["operating_points"]
    return {
        question: {column: both["all"] for column, both in of_question.items()}
        for question, of_question in points.items()
    }
