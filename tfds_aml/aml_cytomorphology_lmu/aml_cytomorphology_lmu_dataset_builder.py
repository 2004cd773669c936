"""TFDS builder of AML-Cytomorphology_LMU."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from leuko_tf.classes import CODES, REANNOTATIONS
from tfds_aml.aml_cytomorphology_lmu.download import (
    Download,
    ListedImage,
    count_by_class,
    read_download,
)
from tfds_aml.folds import FOLDS
from tfds_aml.images import encoded_as_png, unreadable
from tfds_aml.problems import Problems, show_message_only_in_tfds_command

IMAGE_SHAPE = (400, 400, 3)

show_message_only_in_tfds_command()


class Builder(tfds.core.GeneratorBasedBuilder):
    """18,365 single-cell images of leukocytes, 15 classes, five folds.

    `info.metadata` says where the folds come from (`folds`), whether the images were drawn
    (`synthetic`), and how many images the annotation file lists and the data set holds.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(
            name="complete",
            description="Every image that annotations.dat lists must be there, and no other.",
        ),
        tfds.core.BuilderConfig(
            name="available",
            description="The listed images that are there: for a part of the download.",
        ),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    Download AML-Cytomorphology_LMU from The Cancer Imaging Archive, doi 10.7937/tcia.2019.36f5o9ld,
    and name its folder: --manual_dir <folder>. It holds annotations.dat and a folder a class (BAS,
    EBO, ...); both may lie one or two levels further down. To use the published folds, put
    fold1.txt ... fold5.txt (one file name a line) into a folder named `folds` in it.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        reannotation = tfds.features.ClassLabel(names=list(REANNOTATIONS))
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=IMAGE_SHAPE, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CODES)),
                    "id": tfds.features.Text(doc="path within the download"),
                    "reannotation_1": reannotation,
                    "reannotation_2": reannotation,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.7937/tcia.2019.36f5o9ld",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        problems = Problems(folder)
        allow_missing = self.builder_config.name == "available"
        download = read_download(folder, problems, allow_missing=allow_missing)
        for path, reason in unreadable([i.file for i in download.images], IMAGE_SHAPE):
            problems.add("unreadable image: not a whole TIFF of 400x400", f"{path}: {reason}")
        problems.raise_if_any()

        images_by_fold = {k: [i for i in download.images if i.fold == k] for k in FOLDS}
        for fold in (k for k in FOLDS if not images_by_fold[k]):
            problems.add("fold without an image: TFDS writes no empty split", f"fold_{fold}")
        problems.raise_if_any()

        self._record(download)
        return {
            f"fold_{k}": self._generate_examples(images) for k, images in images_by_fold.items()
        }

    def _record(self, download: Download) -> None:
        """Writes what is known of the source into the info, and into the log."""
        self.info.metadata.update(
            folds=download.fold_source,
            synthetic=download.synthetic,
            images_listed=download.listed,
            images=len(download.images),
            images_by_class=count_by_class(download.images),
        )
        logging.info("Folds: %s.", download.fold_source)
        if download.synthetic:
            logging.warning("These images are synthetic: drawn, not photographed.")
        if download.missing:
            logging.warning(
                "%s listed images are missing: building the %s that are there.",
                f"{download.missing:,}",
                f"{len(download.images):,}",
            )

    def _generate_examples(self, images: list[ListedImage]) -> Iterator[tuple[str, dict[str, Any]]]:
        start = time.monotonic()
        for image, png in zip(images, encoded_as_png([i.file for i in images]), strict=True):
            annotation = image.annotation
            yield (
                annotation.path,
                {
                    "image": png,
                    "label": annotation.label,
                    "id": annotation.path,
                    "reannotation_1": annotation.reannotation_1,
                    "reannotation_2": annotation.reannotation_2,
                },
            )
        seconds = time.monotonic() - start
        rate = len(images) / seconds
        logging.info("%s images read and encoded: %.0f images/s.", f"{len(images):,}", rate)
