"""TFDS builder of the Barcelona data set of peripheral blood cells."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from tfds_aml.building import generate_examples, split_by_fold
from tfds_aml.cells import Cell, count_by_class
from tfds_aml.features import JpegImage, make_features
from tfds_aml.images import hash_pixels, inspect_files, read_jpeg
from tfds_aml.pbc_barcelona.download import (
    FOLDS_TOGETHER,
    IMAGES_OF_RELEASE,
    Download,
    format_left_out,
    put_into_folds,
    read_download,
)
from tfds_aml.problems import Problems, show_message_only_in_tfds_command

# Not stated by the release or its article (as far as it could be read). 0.1 is the value in
# Micro-Bench (Lozano et al. 2024, arXiv 2407.01791, `microns_per_pixel` of acevedo_et_al_2020), and
# Salehi et al. 2022 give 36 x 36.3 µm per image (doi 10.1007/978-3-031-16437-8_71; remembered, not
# confirmed). At this scale, red cells are 7.3 µm wide (median of 2,507 isolated ones, 73 pixels);
# textbooks say 7 to 8.
PIXEL_SIZE_UM = 0.1

# The release has sides of 359 to 369 pixels. At 0.1 µm per pixel, an image below 10 µm holds no
# cell, and one above 100 µm holds many.
SIDES = range(100, 1001)

show_message_only_in_tfds_command()


class Builder(tfds.core.GeneratorBasedBuilder):
    """Single-cell images of normal blood, ten of the 15 classes, five folds.

    `info.metadata` holds the source of the folds (`folds`), the width of a pixel
    (`pixel_size_um`), the number of images (`images`), their classes (`images_by_class`), and the
    number of images left out, by type (`images_left_out`).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download PBC_dataset_normal_DIB.zip from Mendeley Data, doi 10.17632/snkd93bnjr.1, unpack it,
    and name its folder: --manual_dir <folder>. The images (BA_100102.jpg, EO_1007.jpg, ...), in one
    folder or one per type, may lie in it or up to two levels below.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=make_features(JpegImage()),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.17632/snkd93bnjr.1",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        problems = Problems(folder)
        download = read_download(folder, problems)
        files = [cell.file for cell in download.images]
        kind = "unreadable image: not a complete JPEG of one cell"
        digests = inspect_files(files, _hash_image, kind, problems)
        problems.raise_if_any()

        cells, contradictory = put_into_folds(download.images, digests)
        splits = split_by_fold(cells, problems)
        self._record(download, cells, contradictory)
        copies = len(cells) - len({digests[cell.file] for cell in cells})
        logging.info("%s images are copies of others and share their fold.", f"{copies:,}")
        return {name: self._generate_examples(members) for name, members in splits.items()}

    def _record(self, download: Download, cells: list[Cell], contradictory: list[Cell]) -> None:
        """Writes facts about the source into the info and the log."""
        self.info.metadata.update(
            images_left_out=download.left_out,
            folds=FOLDS_TOGETHER,
            synthetic=False,
            pixel_size_um=PIXEL_SIZE_UM,
            images=len(cells),
            images_by_class=count_by_class(cells),
        )
        logging.info("Folds: %s.", FOLDS_TOGETHER)
        if line := format_left_out(download):
            logging.warning("%s", line)
        if contradictory:
            names = ", ".join(cell.annotation.path for cell in contradictory)
            message = "Left out %s images whose pixels also occur under another type: %s."
            logging.warning(message, f"{len(contradictory):,}", names)
        found = len(download.images) + sum(download.left_out.values())
        if found < IMAGES_OF_RELEASE:
            logging.warning(
                "Found %s of the release's %s images.", f"{found:,}", f"{IMAGES_OF_RELEASE:,}"
            )

    def _generate_examples(self, cells: list[Cell]) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from generate_examples(cells, Path.read_bytes)


def _hash_image(path: Path) -> str:
    return hash_pixels(read_jpeg(path, SIDES))
