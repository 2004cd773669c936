"""Measures how far examiners agree: `python -m leuko_tf.examiners ANNOTATIONS [--out DIR]`.

ANNOTATIONS is the data set's annotations.dat. Compares the labels with the two re-annotations, on
the images that have them (see `leuko_tf.metrics.agreement`). Writes `examiners.json` into DIR and
`disputes.csv`, the images on which both re-annotations agree on a class that is not the label.
"""

import argparse
from pathlib import Path

from leuko_tf.cli import UserError, run, write_json
from leuko_tf.files import DISPUTES

FIGURES = "examiners.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.examiners",
        description="Measure how far label and re-annotations agree, and list where they differ.",
    )
    parser.add_argument("annotations", type=Path, help="the data set's annotations.dat")
    parser.add_argument("--out", type=Path, help=f"folder for {FIGURES} and {DISPUTES}")
    arguments = parser.parse_args()

    from leuko_tf.metrics import agreement  # pandas and scikit-learn take a second to import

    table = agreement.read_annotation_table(arguments.annotations)
    try:
        found = agreement.measure_agreement(table)
    except UserError as error:
        raise UserError(f"{arguments.annotations}: {error}") from error
    if arguments.out:
        write_json(arguments.out / FIGURES, found)
        agreement.write_disputes(agreement.find_disputes(table), arguments.out / DISPUTES)
    print(agreement.format_summary(found))
    if arguments.out:
        print(f"\n{arguments.out / FIGURES}\n{arguments.out / DISPUTES}")


if __name__ == "__main__":
    run(main)
