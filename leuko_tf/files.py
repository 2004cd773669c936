"""Names of the files and folders that trainings and evaluations write."""

# A training's work folder.
CONFIG = "config.yaml"
RUN = "run.json"
LOG = "log.jsonl"
BEST = "best.keras"
LAST = "last.keras"
TENSORBOARD = "tensorboard"
CELLS = "cells.npy"  # decoded cells, with data.cache=disk, while the training runs

# An evaluation's folder.
PREDICTIONS = "predictions.parquet"
METRICS = "metrics.json"
REPORT = "report.html"
MODEL_CARD = "model_card.md"
DISPUTES = "disputes.csv"
MISTAKES = "mistakes"
GALLERY = "gallery"
