"""What contenders read: a synthetic smear, its data set, and the same cells as PNGs."""

from pathlib import Path

from benchmarks.pipeline import BUILT, PNGS, SMEAR
from benchmarks.worker import Work, prepared

DATASET = "aml_cytomorphology_lmu/complete"
SEED = 1


def make_smear(work: str, images: int) -> Work:
    """Draws a smear, builds its data set and converts its TIFFs to PNGs.

    Args:
      work: folder to write `SMEAR`, `BUILT` and `PNGS` to.
      images: cells to draw.
    """
    import tensorflow_datasets as tfds
    from PIL import Image

    import tfds_aml  # noqa: F401  # registers the data set
    from tfds_aml.synthetic_smear.smear import write_smear

    folder = Path(work)
    if (folder / PNGS).is_dir():
        return prepared()  # another stage wanted it, too
    write_smear(folder / SMEAR, images, SEED)
    tfds.builder(DATASET, data_dir=folder / BUILT).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(folder / SMEAR))
    )
    (folder / PNGS).mkdir()
    for tiff in tiffs(folder):
        with Image.open(tiff) as image:
            image.convert("RGB").save(folder / PNGS / f"{tiff.stem}.png")
    return prepared()


def tiffs(work: Path) -> list[Path]:
    """The smear's TIFFs, in the same order every time."""
    return sorted((work / SMEAR).rglob("*.tiff"))


def pngs(work: Path) -> list[Path]:
    """The same cells as PNGs."""
    return sorted((work / PNGS).glob("*.png"))
