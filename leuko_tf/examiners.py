"""How far examiners agree: `python -m leuko_tf.examiners ANNOTATIONS [--out DIR]`.

ANNOTATIONS is the data set's annotations.dat. Compares the labels and the two re-annotations of
the images that have them (see `leuko_tf.metrics.agreement`), and writes into DIR `examiners.json` and
`disputes.csv`, the list of images on which both re-annotations agree on a class that is not the
label.
"""

import argparse
from pathlib import Path

from leuko_tf.cli import UserError, run, write_json

FIGURES = "examiners.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.examiners",
        description="How far label and re-annotations agree, and where they dispute.",
    )
    parser.add_argument("annotations", type=Path, help="the data set's annotations.dat")
    parser.add_argument("--out", type=Path, help=f"folder for {FIGURES} and disputes.csv")
    arguments = parser.parse_args()

    # pandas and scikit-learn take a second to import.
    from leuko_tf.metrics.agreement import (
        DISPUTES,
        find_disputes,
        format_summary,
        measure_agreement,
        read_annotation_table,
        write_disputes,
    )

    table = read_annotation_table(arguments.annotations)
    try:
        found = measure_agreement(table)
    except UserError as error:
        raise UserError(f"{arguments.annotations}: {error}") from error
    if arguments.out:
        write_json(arguments.out / FIGURES, found)
        write_disputes(find_disputes(table), arguments.out / DISPUTES)
    print(format_summary(found))
    if arguments.out:
        print(f"\n{arguments.out / FIGURES}\n{arguments.out / DISPUTES}")


if __name__ == "__main__":
    run(main)
