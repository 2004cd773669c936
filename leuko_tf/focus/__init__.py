"""Scores where the network looks: shares of saliency in cell regions, curves, a sanity check.

`python -m leuko_tf.saliency --score` runs `score.score`. Data flows from cells to maps, to shares,
curves and the sanity check, to the page.
"""
