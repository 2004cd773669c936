"""The amount of arithmetic in the network, computed from its shape."""

from leuko_tf.config import ModelConfig

# A training step computes each convolution and the gradients of its input and of its kernel.
TRAINING_FACTOR = 3


def compute_forward_gflop(size: int) -> float:
    """Counts multiplications and additions in ResNeXt-50 32x4d's convolutions, in 10^9.

    They are those of one image of `size` by `size` pixels.
    """
    network = ModelConfig()
    side = _halve(size)
    products = side**2 * 7 * 7 * 3 * network.stem_width
    side, channels = _halve(side), network.stem_width
    for stage, count in enumerate(network.blocks):
        inner = network.width * 2**stage
        for block in range(count):
            before = side
            if block == 0 and stage > 0:
                side = _halve(side)
            products += before**2 * channels * inner
            products += side**2 * 9 * inner * inner // network.cardinality
            products += side**2 * inner * 2 * inner
            if block == 0:
                products += side**2 * channels * 2 * inner
            channels = 2 * inner
    return 2 * products / 1e9


def _halve(side: int) -> int:
    """Side after a stride of two with padding `same`."""
    return -(-side // 2)
