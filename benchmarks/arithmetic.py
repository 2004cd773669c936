"""How much arithmetic the network is; computed from its shape alone."""

from leuko_tf.config import ModelConfig

# A training step computes each convolution, the gradient of its input and that of its kernel.
TRAINING_FACTOR = 3


def forward_gflop(size: int) -> float:
    """Multiplications and additions in the convolutions of ResNeXt-50 32x4d, in 10^9 an image.

    Args:
      size: side of the image in pixels.
    """
    network = ModelConfig()
    side = _halved(size)
    products = side**2 * 7 * 7 * 3 * network.stem_width
    side, channels = _halved(side), network.stem_width
    for stage, count in enumerate(network.blocks):
        inner = network.width * 2**stage
        for block in range(count):
            before = side
            if block == 0 and stage > 0:
                side = _halved(side)
            products += before**2 * channels * inner
            products += side**2 * 9 * inner * inner // network.cardinality
            products += side**2 * inner * 2 * inner
            if block == 0:
                products += side**2 * channels * 2 * inner
            channels = 2 * inner
    return 2 * products / 1e9


def _halved(side: int) -> int:
    """Side after a stride of two with padding `same`."""
    return -(-side // 2)
