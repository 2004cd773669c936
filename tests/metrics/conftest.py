"""The published network's held-out outputs, read once, where they are available."""

from pathlib import Path

import pandas as pd
import pytest

from leuko_tf.predictions import read_predictions


@pytest.fixture(scope="session")
def published_folder(shared: Path) -> Path:
    """The folder with the published network's outputs and figures computed from them elsewhere."""
    return shared / "data" / "published_network"


@pytest.fixture(scope="session")
def published(published_folder: Path) -> pd.DataFrame:
    """Predictions of the published network on all 18,365 images."""
    return read_predictions(published_folder / "heldout_outputs.npz")[0]
