"""The report of an evaluation: one self-contained HTML file."""

from leuko_tf.report.page import write_report

__all__ = ["write_report"]
