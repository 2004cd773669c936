"""Where the network looks, in numbers: masks of cells, shares, curves, and fresh weights' maps.

`python -m leuko_tf.saliency --score` runs `score.score`; data flows cells -> maps -> shares, curves
and sanity -> page.
"""
