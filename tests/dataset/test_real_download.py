"""The real annotation file and the real images that LEUKO_SHARED names; nothing of it is copied.

The numbers are those of the paper and of the release, counted without this project's code.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_builds import build, decode_labels, read_back
from PIL import Image

from tfds_aml.aml_cytomorphology_lmu.download import read_annotations
from tfds_aml.folds import FOLDS
from tfds_aml.problems import BadDownloadError, Problems

# Class: images and re-annotated images of the whole release.
PAPER = {
    "NGS": (8484, 525), "NGB": (109, 7), "LYT": (3937, 377), "LYA": (11, 3), "MON": (1789, 233),
    "EOS": (424, 46), "BAS": (79, 5), "MYO": (3268, 657), "PMO": (70, 12), "PMB": (18, 5),
    "MYB": (42, 7), "MMZ": (15, 4), "MOB": (26, 5), "EBO": (78, 15), "KSC": (15, 4),
}  # fmt: skip
AVAILABLE = "aml_cytomorphology_lmu/available"
PUBLISHED_FOLD_SIZES = {1: 3773, 2: 3630, 3: 3676, 4: 3714, 5: 3572}


@pytest.fixture(scope="module")
def originals(shared: Path) -> dict[str, Path]:
    """The real images by their path within the download."""
    folder = shared / "data" / "aml_lmu" / "images"
    return {str(f.relative_to(folder)): f for f in sorted(folder.glob("*/*.tiff"))}


@pytest.fixture(scope="module")
def download(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download of links to the real files, with the published fold lists put into it."""
    folder = tmp_path_factory.mktemp("real") / "download"
    (folder / "folds").mkdir(parents=True)
    for name in ("annotations.dat", "images"):
        (folder / name).symlink_to((shared / "data" / "aml_lmu" / name).resolve())
    for k in FOLDS:
        text = (shared / "data" / "published_network" / f"fold{k}.txt").read_text()
        (folder / "folds" / f"fold{k}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def builder(download: Path, tmp_path_factory: pytest.TempPathFactory) -> tfds.core.DatasetBuilder:
    return build(download, tmp_path_factory.mktemp("built from real"), AVAILABLE)


@pytest.fixture(scope="module")
def examples(builder: tfds.core.DatasetBuilder) -> dict[str, dict]:
    return read_back(builder)


def test_the_real_annotation_file_has_the_counts_of_the_paper(download):
    problems = Problems(download)
    annotations, _ = read_annotations(download / "annotations.dat", problems)
    problems.raise_if_any()
    assert len(annotations) == 18_365
    counts = Counter(a.label for a in annotations)
    assert counts == {code: images for code, (images, _) in PAPER.items()}
    reannotated = [a for a in annotations if a.reannotation_1 != "none"]
    assert len(reannotated) == 1905
    assert Counter(a.label for a in reannotated) == {code: n for code, (_, n) in PAPER.items()}
    # Always twice or never.
    assert reannotated == [a for a in annotations if a.reannotation_2 != "none"]


def test_every_original_reads_back_pixel_for_pixel(originals, examples):
    assert len(originals) == 161
    assert examples.keys() == originals.keys()
    for path, file in originals.items():
        with Image.open(file) as image:
            expected = np.asarray(image.convert("RGB"))
        np.testing.assert_array_equal(examples[path]["image"], expected, err_msg=path)
    with Image.open(originals["EBO/EBO_0011.tiff"]) as image:
        assert len(image.tile) == 7  # among them, the original of many strips


def test_labels_and_reannotations_of_the_originals_are_right(builder, examples, download):
    found = {path: decode_labels(example, builder.info) for path, example in examples.items()}
    lines = [line.split() for line in (download / "annotations.dat").read_text().splitlines()]
    assert found == {
        path: ["none" if code == "nan" else code for code in codes]
        for path, *codes in lines
        if path in examples
    }
    assert sum(reannotations != ["none", "none"] for _, *reannotations in found.values()) == 29


def test_every_original_is_in_the_fold_that_its_published_list_says(builder, examples, download):
    names = {k: (download / "folds" / f"fold{k}.txt").read_text().splitlines() for k in FOLDS}
    assert {k: len(n) for k, n in names.items()} == PUBLISHED_FOLD_SIZES
    for path, example in examples.items():
        fold = int(example["split"].removeprefix("fold_"))
        assert [k for k in FOLDS if Path(path).name in names[k]] == [fold], path
    assert builder.info.metadata["folds"].startswith("published lists")


def test_the_build_says_that_18204_images_are_missing(download, tmp_path, caplog):
    with pytest.raises(BadDownloadError, match=r"18,204 problems\.\n- 18,204 x missing image:"):
        build(download, tmp_path)
    with caplog.at_level(logging.WARNING, logger="absl"):
        build(download, tmp_path, AVAILABLE)
    assert "18,204 listed images are missing: building the 161 that exist." in caplog.messages
