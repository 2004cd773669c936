"""Draws a synthetic smear into a new folder (command line)."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits with a one-line message and status 2 if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_aml.synthetic_smear",
        description="Draw a synthetic blood smear with 15 classes of leukocytes, in the layout of "
        "the AML-Cytomorphology_LMU download. The images are synthetic: they show no "
        "patient's cells, and results on them say nothing about real cells.",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="new or empty folder to write"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1500,
        metavar="N",
        help="number of images, at least 75 (default: 1500)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="S",
        help="the same seed draws the same smear (default: 1)",
    )
    options = parser.parse_args(arguments)

    from tfds_aml.synthetic_smear.smear import write_smear  # imported here: --help needs no cv2

    try:
        rate = write_smear(options.out, options.images, options.seed)
    except (ValueError, OSError) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    print(
        f"Wrote {options.images} synthetic images (drawn by leuko_tf, no patient's cells) to "
        f"{options.out}, {rate:.0f} images/s"
    )


if __name__ == "__main__":
    main()
