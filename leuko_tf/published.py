"""The published network's figures, and its examiners': the reference of every comparison.

They stand in `published_2019.yaml`, with their sources.
"""

from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf


def published_figures() -> dict[str, Any]:
    """The data file as a dict: `network` and `examiners`."""
    text = (files("leuko_tf") / "published_2019.yaml").read_text(encoding="utf-8")
    content = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(content, dict)
    return content


def examiners_points() -> dict[str, Any]:
    """Question and re-annotation to sensitivity, specificity and precision on the real images."""
    return published_figures()["examiners"]["operating_points"]
