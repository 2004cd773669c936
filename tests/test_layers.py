"""The layers against others: separate convolutions, Keras' batch norm, Pillow's resizing."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import run

from leuko_tf.network import convolution
from leuko_tf.network.layers import BatchNorm, CellScaling, Conv2D
from leuko_tf.network.view import crop_center

SIDES = st.integers(1, 40)


@pytest.fixture(autouse=True)
def full_float32():
    """On a GPU convolutions would otherwise round float32 to ten bits."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _bfloat16_exact(values: np.ndarray) -> np.ndarray:
    """Rounds to what bfloat16 can hold, so that a comparison sees only the computation's error."""
    return tf.cast(tf.cast(values, tf.bfloat16), tf.float32).numpy()


def _convolve_separately(inputs, kernel, bias, layer: Conv2D):
    """As the paper's network was built: a slice, a convolution and a bias a group, then concat."""
    window = (layer.strides, layer.padding.upper(), "NHWC", layer.dilation_rate)
    groups = zip(
        *(tf.split(each, layer.groups, axis=-1) for each in (inputs, kernel, bias)), strict=True
    )
    outputs = [tf.nn.conv2d(part, weights, *window) + offset for part, weights, offset in groups]
    return tf.concat(outputs, axis=-1)


def _differentiate(function, inputs, variables=()) -> list[np.ndarray]:
    """The function's value, and the gradients of a random projection of it, as float32."""
    inputs = [tf.convert_to_tensor(each) for each in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        value = function(*inputs)
        weights = _bfloat16_exact(_random(tuple(value.shape), seed=9))
        projection = tf.reduce_sum(tf.cast(value, tf.float32) * weights)
    results = [value, *tape.gradient(projection, [*inputs, *variables])]
    return [tf.cast(r, tf.float32).numpy() for r in results]


def _differentiate_layer(layer, inputs, kernel, bias) -> list[np.ndarray]:
    """The same of a layer that is given this kernel and bias."""
    if not layer.built:
        layer.build(inputs.shape)
    layer.set_weights([kernel, bias])
    variables = [layer.kernel.value, layer.bias.value]
    return _differentiate(layer, [tf.cast(inputs, layer.compute_dtype)], variables)


def _draw_numbers(layer: Conv2D, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Random inputs of this shape, with a kernel and a bias for the layer."""
    kernel_shape = (*layer.kernel_size, shape[-1] // layer.groups, layer.filters)
    numbers = (_random(shape), _random(kernel_shape) / 4, _random((layer.filters,)))
    return [_bfloat16_exact(each) for each in numbers]


def check_against_separate_convolutions(
    layer: Conv2D, shape: tuple[int, ...], tolerance: float = 1e-5, *bias_tolerance: float
) -> None:
    """Compares outputs and gradients for random inputs of this shape."""
    numbers = _draw_numbers(layer, shape)
    expected = _differentiate(lambda *n: _convolve_separately(*n, layer), numbers)
    for _ in range(3):
        _fill_free_memory()
        received = _differentiate_layer(layer, *numbers)
        _assert_all_close(received, expected, tolerance, *bias_tolerance)


def _fill_free_memory() -> None:
    """Leaves large numbers in freed blocks: an operation that forgets to write shows them."""
    for length in (64, 256, 1024, 4096, 16384, 65536):
        blocks = [tf.fill((length,), tf.constant(1e30)) for _ in range(8)]
        del blocks


def _assert_all_close(received, expected, tolerance, bias_tolerance=None):
    """Compares outputs and gradients, each relative to its own largest value."""
    names = ("output", "input gradient", "kernel gradient", "bias gradient")
    for name, a, b in zip(names, received, expected, strict=False):
        assert a.shape == b.shape, name
        error = np.abs(a - b).max() / max(1.0, np.abs(b).max())
        allowed = bias_tolerance if bias_tolerance and name.startswith("bias") else tolerance
        # Written so that not-a-number fails.
        assert error <= allowed, f"{name}: {error}"


class TestAgainstSeparateConvolutions:
    @pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize("strides", [1, 2])
    @pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9)])
    def test_32_groups_of_4_channels_as_in_the_papers_first_stage(
        self, size, strides, padding, portable
    ):
        layer = Conv2D(128, 3, strides=strides, padding=padding, groups=32)
        layer.portable = portable
        check_against_separate_convolutions(layer, (2, *size, 128))

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 5), (2, 2)])
    def test_a_stride_over_a_single_row_or_column_changes_nothing(self, size):
        layer = Conv2D(16, 3, strides=2, padding="same", groups=4)
        check_against_separate_convolutions(layer, (3, *size, 16))

    def test_one_group_is_an_ordinary_convolution(self):
        check_against_separate_convolutions(Conv2D(12, 3, padding="same"), (2, 6, 5, 8))

    @pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
    def test_dilation_is_applied(self, portable):
        layer = Conv2D(8, 3, padding="same", groups=2, dilation_rate=2)
        layer.portable = portable
        inputs, kernel, bias = _draw_numbers(layer, (1, 9, 9, 8))
        layer.build(inputs.shape)
        layer.set_weights([kernel, bias])
        expected = _convolve_separately(inputs, kernel, bias, layer)
        np.testing.assert_allclose(layer(inputs), expected, atol=1e-4)


class TestOtherTypes:
    """Against float32 on inputs and kernels that bfloat16 holds exactly.

    oneDNN accumulates in float32, so what is left is the rounding of results (relative 2^-9) and,
    in the gradients, of the output's gradient once more: 1 % of the largest value covers it some
    twofold. The bias' gradient TensorFlow sums in bfloat16, here over up to 168 terms. Garbage
    exceeds both by orders of magnitude.
    """

    BFLOAT16 = (0.01, 0.05)

    @pytest.mark.parametrize("groups", [1, 4, 16])
    @pytest.mark.parametrize("strides", [1, 2])
    @pytest.mark.parametrize(
        "size", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 4), (3, 3), (7, 8)]
    )
    def test_bfloat16(self, size, strides, groups):
        settings = {"strides": strides, "padding": "same", "groups": groups}
        layer = Conv2D(16, 3, **settings, dtype="mixed_bfloat16")
        check_against_separate_convolutions(layer, (3, *size, 16), *self.BFLOAT16)

    def test_a_kernel_of_one_pixel_skips_pixels_with_a_stride_as_in_float32(self):
        layer = Conv2D(16, 1, strides=2, groups=4, dtype="mixed_bfloat16")
        check_against_separate_convolutions(layer, (3, 4, 1, 16), *self.BFLOAT16)

    @pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 0.01), ("float64", 1e-5)])
    def test_types_for_which_onednn_has_no_grouped_gradient(self, policy, tolerance):
        layer = Conv2D(16, 3, strides=2, padding="same", groups=4, dtype=policy)
        check_against_separate_convolutions(layer, (2, 6, 5, 16), tolerance)

    def test_the_mixed_policy_keeps_float32_variables_and_gives_bfloat16(self):
        layer = Conv2D(8, 3, groups=2, dtype="mixed_bfloat16")
        assert layer(_random((1, 5, 5, 4))).dtype == tf.bfloat16
        assert {v.dtype for v in layer.variables} == {"float32"}


@st.composite
def _grouped_shapes(draw):
    groups = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16, 32]))
    depth, filters = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    size = draw(st.tuples(st.integers(3, 6), st.integers(3, 6)))
    return groups, depth, filters, size


class TestPortable:
    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(_grouped_shapes(), st.integers(1, 2), st.sampled_from(["SAME", "VALID"]))
    def test_block_diagonal_equals_native(self, shape, stride, padding):
        groups, depth, filters, size = shape
        numbers = [_random((2, *size, groups * depth)), _random((3, 3, depth, groups * filters))]
        arguments = (groups, (stride, stride), padding, (1, 1))
        native, portable = (
            _differentiate(lambda x, k, f=function: f(x, k, *arguments), numbers)
            for function in (convolution.convolve, convolution._convolve_in_blocks)
        )
        _assert_all_close(portable, native, 1e-5)

    @settings(deadline=None)
    @given(st.integers(1, 500), st.integers(1, 500))
    def test_the_largest_divisor_divides_and_no_larger_one_does(self, number, at_most):
        found = convolution._find_largest_divisor(number, at_most)
        assert number % found == 0
        assert found <= at_most
        assert not any(number % d == 0 for d in range(found + 1, min(at_most, number) + 1))

    def test_a_portable_graph_holds_no_grouped_convolution(self):
        """A server's build may lack oneDNN: each convolution's kernel must be as deep as its input.

        The native graph is the counter-example that shows that the check can fail.
        """
        assert not self._grouped_convolutions(portable=True)
        assert self._grouped_convolutions(portable=False)

    @staticmethod
    def _grouped_convolutions(portable: bool) -> list[tf.Operation]:
        layer = Conv2D(64, 3, padding="same", groups=16)
        layer.portable = portable
        graph = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 8, 8, 64))).graph
        return [
            op
            for op in graph.get_operations()
            if op.type == "Conv2D" and op.inputs[0].shape[-1] != op.inputs[1].shape[2]
        ]


class TestTracing:
    @pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
    def test_no_function_in_the_graph_must_be_compiled_with_xla(self, portable):
        layer = Conv2D(8, 3, padding="same", groups=4)
        layer.portable = portable
        concrete = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 8, 8, 8)))
        assert not self._marked_for_xla(concrete)

    def test_the_check_finds_the_mark_that_keras_own_layer_leaves(self):
        layer = keras.layers.Conv2D(8, 3, padding="same", groups=4)
        concrete = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 8, 8, 8)))
        assert self._marked_for_xla(concrete)

    @staticmethod
    def _marked_for_xla(concrete) -> list[str]:
        definition = concrete.graph.as_graph_def()
        marked = [f.signature.name for f in definition.library.function
                  if f.attr["_XlaMustCompile"].b]  # fmt: skip
        nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
        return marked + [n.name for n in nodes if n.attr["_XlaMustCompile"].b]

    @pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
    @pytest.mark.parametrize("strides", [1, 2])
    def test_under_xla_output_and_gradients_are_the_same(self, strides, portable):
        layer = Conv2D(8, 3, strides=strides, padding="same", groups=4)
        layer.portable = portable
        inputs, kernel, bias = _draw_numbers(layer, (2, 5, 4, 8))
        expected = _differentiate_layer(layer, inputs, kernel, bias)
        weights = _bfloat16_exact(_random(expected[0].shape, seed=9))

        @tf.function(jit_compile=True)
        def compiled(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = layer(inputs)
                projection = tf.reduce_sum(value * weights)
            variables = [layer.kernel.value, layer.bias.value]
            return value, *tape.gradient(projection, [inputs, *variables])

        received = [r.numpy() for r in compiled(tf.constant(inputs))]
        _assert_all_close(received, expected, 1e-5)


class TestBeforeABatchNorm:
    """The same numbers by other ways, but for the bias, which learns nothing there."""

    # groups, channels a group, side of the kernel, strides
    CASES = (
        (1, 24, 1, 1),
        (1, 24, 1, 2),
        (1, 3, 7, 2),
        (1, 8, 3, 1),
        (32, 4, 3, 1),
        (32, 4, 3, 2),
        (32, 8, 3, 1),
        (8, 16, 3, 1),
        (6, 5, 3, 1),
        (4, 4, 1, 1),
    )

    @pytest.mark.parametrize("padding", ["same", "valid"])
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_outputs_and_gradients_are_those_of_the_plain_layer(self, case, padding):
        self._compare(case, padding, "float32", 1e-5)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_also_in_bfloat16(self, case):
        self._compare(case, "same", "mixed_bfloat16", 0.02)

    @pytest.mark.parametrize("size", [(1, 1), (1, 5)])
    def test_also_over_a_single_row(self, size):
        self._compare((4, 4, 3, 2), "same", "float32", 1e-5, size)

    @pytest.mark.parametrize("dilation", [1, 2])
    def test_without_a_fast_way_only_the_bias_is_spared(self, dilation, monkeypatch):
        monkeypatch.setattr(convolution, "_has_grouped_kernels", lambda dtype: False)
        self._compare((4, 4, 3, 1), "same", "float32", 1e-5, dilation_rate=dilation)

    @staticmethod
    def _compare(case, padding, policy, tolerance, size=(9, 8), **settings):
        groups, depth, side, strides = case
        settings |= {"padding": padding, "groups": groups, "dtype": policy}
        layer = Conv2D(2 * groups * depth, side, strides, **settings)
        numbers = _draw_numbers(layer, (2, *size, groups * depth))
        plain = _differentiate_layer(layer, *numbers)
        layer.normalised = True
        normalised = _differentiate_layer(layer, *numbers)
        _assert_all_close(normalised[:3], plain[:3], tolerance)
        assert not normalised[3].any()

    def test_the_layers_own_activation_is_kept(self):
        layer = Conv2D(8, 3, activation="relu")
        layer.normalised = True
        assert layer(_random((2, 6, 6, 4))).numpy().min() == 0


WITHOUT_ONEDNN = """
from leuko_tf.network import convolution, layers
import test_layers
assert not convolution._has_grouped_kernels("float32")
layer = layers.Conv2D(32, 3, strides=2, padding="same", groups=8)
test_layers.check_against_separate_convolutions(layer, (2, 7, 6, 32))
"""


def test_without_onednn_output_and_gradients_are_the_same():
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
    here = Path(__file__).parent
    done = run([sys.executable, "-c", WITHOUT_ONEDNN], cwd=here, env=environment)
    assert done.returncode == 0, done.stderr


class TestSaving:
    def test_config_round_trip_keeps_every_argument(self):
        layer = Conv2D(
            12, (3, 5), strides=2, padding="same", groups=3, use_bias=False, name="grouped"
        )
        again = Conv2D.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
        assert again.groups == 3
        assert not again.use_bias

        scaling = CellScaling(32, field=50, pixel_size_um=0.1, name="scaling")
        again = CellScaling.from_config(scaling.get_config())
        assert (again.size, again.field, again.pixel_size_um) == (32, 50, 0.1)
        assert again.name == "scaling"
        assert again.compute_dtype == "float32"

    def test_a_file_from_before_it_had_a_field_looks_at_400_pixels(self):
        old = CellScaling.from_config({"name": "scaling", "size": 32})
        assert (old.field, old.pixel_size_um) == (400, None)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_a_saved_model_predicts_the_same(self, policy, tmp_path):
        inputs = keras.Input((None, None, 3))
        x = CellScaling(8)(inputs)
        x = keras.layers.Conv2D(8, 1, dtype=policy)(x)
        x = Conv2D(8, 3, padding="same", groups=4, dtype=policy)(x)
        model = keras.Model(inputs, x)
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert type(again.layers[-1]) is Conv2D
        assert again.layers[-1].dtype_policy.name == policy
        images = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), np.uint8)
        np.testing.assert_array_equal(
            np.asarray(again(images), np.float32), np.asarray(model(images), np.float32)
        )

    def test_the_layer_can_be_subclassed_search_finds_a_conv2d(self):
        """CAM tools look for the last `Conv2D` by isinstance."""
        assert isinstance(Conv2D(4, 3), keras.layers.Conv2D)


class TestCentred:
    @given(SIDES, SIDES, SIDES)
    def test_it_keeps_the_middle_and_mirrors_the_edges(self, height, width, side):
        image = np.arange(height * width * 3).reshape(height, width, 3)
        # Pixel by pixel: coordinates of the image, thrown back at its edges as often as it takes.
        sources = []
        for length in (height, width):
            places = (np.arange(side) + int(np.floor((length - side) / 2))) % (2 * length)
            sources.append(np.where(places < length, places, 2 * length - 1 - places))
        expected = image[np.ix_(*sources)]
        received = crop_center(image[np.newaxis], side)[0]
        assert received.dtype == image.dtype
        np.testing.assert_array_equal(received, expected)


class TestCellScaling:
    @pytest.fixture
    def images(self) -> np.ndarray:
        return np.random.default_rng(1).integers(0, 256, (3, 20, 20, 3), np.uint8)

    def test_at_equal_size_it_only_divides_by_255(self, images):
        expected = images.astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(CellScaling(20, field=20)(images), expected)

    def test_at_equal_size_that_the_graph_does_not_know_it_changes_nothing_either(self, images):
        """An exported model takes any size, so there the centring runs also at equal size."""
        layer = CellScaling(20, field=20)
        scale = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
        np.testing.assert_allclose(scale(images), images / 255.0, atol=1e-6)

    @pytest.mark.parametrize("side", [40, 31, 13, 400])
    def test_it_resizes_as_pillow_does_with_antialiasing(self, side):
        """Pillow rounds to whole grey levels after each of its two passes: one level's worth."""
        image = np.random.default_rng(2).integers(0, 256, (side, side, 3), np.uint8)
        expected = Image.fromarray(image).resize((20, 20), Image.Resampling.BILINEAR)
        received = CellScaling(20, field=side)(image[np.newaxis])[0].numpy() * 255
        assert np.abs(received - np.asarray(expected, np.float32)).max() <= 1.01

    @pytest.mark.parametrize("shape", [(30, 30), (31, 42), (50, 33)])
    def test_it_looks_at_the_field_in_the_middle_and_at_nothing_else(self, shape):
        images = np.random.default_rng(3).integers(0, 256, (2, *shape, 3), np.uint8)
        top, left = ((side - 30) // 2 for side in shape)
        middle = images[:, top : top + 30, left : left + 30]
        layer = CellScaling(20, field=30)
        expected = layer(middle)
        np.testing.assert_array_equal(layer(images), expected)
        images[:, :top] = images[:, :, :left] = 0
        images[:, top + 30 :] = images[:, :, left + 30 :] = 0
        np.testing.assert_array_equal(layer(images), expected)

    def test_it_mirrors_the_edges_of_smaller_images(self):
        images = np.random.default_rng(3).integers(0, 256, (2, 23, 26, 3), np.uint8)
        around = [(0, 0), (4, 3), (2, 2), (0, 0)]
        mirrored = np.pad(images, around, mode="symmetric")
        layer = CellScaling(20, field=30)
        np.testing.assert_array_equal(layer(images), layer(mirrored))

    def test_an_image_of_the_outputs_size_has_no_way_of_its_own(self):
        images = np.random.default_rng(3).integers(0, 256, (2, 20, 20, 3), np.uint8)
        np.testing.assert_array_equal(
            CellScaling(20, field=10)(images), CellScaling(20, field=10)(images[:, 5:15, 5:15])
        )

    @pytest.mark.parametrize("shape", [(20, 20), (20, 31), (17, 30), (30, 30), (44, 47)])
    def test_a_graph_for_any_size_sees_the_same(self, shape):
        images = np.random.default_rng(3).integers(0, 256, (2, *shape, 3), np.uint8)
        layer = CellScaling(20, field=30)
        scale = tf.function(layer, input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)])
        np.testing.assert_allclose(scale(images), layer(images), atol=1e-6)

    @pytest.mark.parametrize(("dtype", "factor"), [(np.uint8, 1), (np.float32, 0.97)])
    def test_it_computes_in_float32_also_under_a_mixed_policy(self, images, dtype, factor):
        """A layer of that policy would round float images on the way in."""
        images = (images * factor).astype(dtype)
        expected = CellScaling(10)(images)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            received = CellScaling(10)(images)
        finally:
            keras.config.set_dtype_policy(before)
        assert received.dtype == tf.float32
        np.testing.assert_array_equal(received, expected)

    @pytest.mark.parametrize("size", [20, 9])
    def test_uint8_and_float_images_give_the_same(self, images, size):
        layer = CellScaling(size)
        np.testing.assert_array_equal(layer(images), layer(images.astype(np.float32)))

    def test_the_output_shape_is_known_before_the_call(self):
        assert CellScaling(9).compute_output_shape((None, None, None, 3)) == (None, 9, 9, 3)
        assert tuple(CellScaling(9)(keras.Input((None, None, 3))).shape) == (None, 9, 9, 3)

    def test_it_has_nothing_to_train(self):
        layer = CellScaling(9)
        layer(np.zeros((1, 4, 4, 3), np.uint8))
        assert layer.weights == []


def _norms(channels: int, policy: str, seed: int = 0) -> tuple[BatchNorm, keras.layers.Layer]:
    """Ours and Keras', with the same random weights."""
    rng = np.random.default_rng(seed)
    weights = [
        rng.uniform(0.5, 2, channels),
        rng.normal(size=channels),
        rng.normal(size=channels),
        rng.uniform(0.5, 2, channels),
    ]
    layers = []
    for kind in (BatchNorm, keras.layers.BatchNormalization):
        layer = kind(epsilon=1e-3, momentum=0.9, dtype=policy)
        layer.build((None, None, None, channels))
        layer.set_weights(weights)
        layers.append(layer)
    return layers[0], layers[1]


class TestBatchNorm:
    # A sum over some hundred products of this precision.
    TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2, "mixed_float16": 2e-2}  # noqa: RUF012

    @pytest.mark.parametrize("policy", TOLERANCE)
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("shape", [(4, 5, 6, 8), (2, 1, 1, 3), (1, 7, 1, 4)], ids=str)
    def test_results_gradients_and_averages_are_those_of_keras(self, policy, training, shape):
        inputs = tf.cast(2 + 3 * _random(shape), _norms(1, policy)[0].compute_dtype)
        weights = _random(shape, seed=9)
        found = []
        for layer in _norms(shape[-1], policy):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = layer(inputs, training=training)
                loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * weights)
            assert outputs.dtype == inputs.dtype
            variables = [v.value for v in layer.trainable_variables]
            found.append(
                [outputs, *tape.gradient(loss, [inputs, *variables]), *layer.get_weights()]
            )
        for pair in zip(*found, strict=True):
            ours, theirs = (tf.cast(t, tf.float32).numpy() for t in pair)
            scale = max(1.0, np.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, atol=self.TOLERANCE[policy] * scale)

    def test_a_frozen_layer_keeps_its_averages(self):
        layer, _ = _norms(3, "float32")
        layer.trainable = False
        before = layer.get_weights()
        inputs = _random((4, 2, 2, 3))
        frozen = layer(inputs, training=True)
        np.testing.assert_array_equal(frozen, layer(inputs, training=False))
        for ours, kept in zip(layer.get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, kept)

    def test_it_compiles_under_xla(self):
        layer, _ = _norms(4, "float32")
        inputs = _random((3, 5, 5, 4))

        def step(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                loss = tf.reduce_sum(layer(images, training=True) ** 3)
            return tape.gradient(loss, images)

        expected = step(tf.constant(inputs))
        compiled = tf.function(step, jit_compile=True)(tf.constant(inputs))
        np.testing.assert_allclose(compiled, expected, atol=1e-4)

    def test_it_comes_back_from_its_configuration_as_a_layer_of_its_own(self):
        layer = BatchNorm(epsilon=0.01, momentum=0.5, name="n")
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert type(again) is BatchNorm
        assert again.get_config() == layer.get_config()
