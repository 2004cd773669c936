"""The report of an evaluation, one self-contained HTML file, and its short form, a model card."""

from leuko_tf.report.page import write_model_card, write_report

__all__ = ["write_model_card", "write_report"]
