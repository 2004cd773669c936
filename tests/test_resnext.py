"""The network: the paper's in every number, free in size, and loadable elsewhere."""

import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import run

from leuko_tf.cli import UserError
from leuko_tf.config import ModelConfig
from leuko_tf.network.layers import CellScaling, Conv2D
from leuko_tf.network.resnext import build_resnext, from_config, strip_scaling

TINY = {"input_size": 32, "blocks": [1, 1], "stem_width": 8, "width": 8, "cardinality": 4}


@pytest.fixture(scope="module")
def paper() -> keras.Model:
    return build_resnext()


@pytest.fixture(scope="module")
def tiny() -> keras.Model:
    keras.utils.set_random_seed(1)
    return build_resnext(**TINY)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tiny, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    tiny.save(folder / "tiny.keras")
    np.save(folder / "images.npy", images)
    return folder


def _of_type(model: keras.Model, kind: type) -> list[keras.Layer]:
    return [layer for layer in model.layers if isinstance(layer, kind)]


def _grouped(model: keras.Model) -> list[keras.Layer]:
    return [layer for layer in _of_type(model, Conv2D) if layer.groups > 1]


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


class TestThePapersNetwork:
    def test_with_15_outputs_it_has_23112975_parameters(self, paper):
        assert paper.count_params() == 23_112_975

    def test_with_the_published_16_outputs_it_has_23115024_of_which_23046800_train(self):
        published = build_resnext(num_outputs=16)
        assert published.count_params() == 23_115_024
        assert _trainable(published) == 23_046_800

    def test_the_default_configuration_is_this_network(self, paper):
        again = from_config(ModelConfig(), "float32")
        assert again.get_config() == paper.get_config()

    def test_it_has_53_convolutions_of_which_16_grouped_each_with_a_bias(self, paper):
        convolutions = _of_type(paper, keras.layers.Conv2D)
        assert len(convolutions) == 53
        assert len(_grouped(paper)) == 16
        assert all(c.use_bias for c in convolutions)
        assert {c.groups for c in convolutions} == {1, 32}

    def test_it_has_53_batch_norms_with_the_defaults_of_keras_2_2_4(self, paper):
        norms = _of_type(paper, keras.layers.BatchNormalization)
        assert len(norms) == 53
        assert {(n.epsilon, n.momentum) for n in norms} == {(1e-3, 0.99)}

    def test_every_activation_is_leaky_relu_with_slope_03(self, paper):
        # One behind the stem, and three in each of the 16 blocks.
        activations = _of_type(paper, keras.layers.LeakyReLU)
        assert len(activations) == 49
        assert {a.negative_slope for a in activations} == {0.3}

    def test_the_stem_is_a_7x7_convolution_and_a_3x3_max_pool_both_with_stride_2(self, paper):
        (pool,) = _of_type(paper, keras.layers.MaxPooling2D)
        stem = _of_type(paper, keras.layers.Conv2D)[0]
        assert (stem.kernel_size, stem.strides, stem.filters) == ((7, 7), (2, 2), 64)
        assert stem.padding == "same"
        assert (pool.pool_size, pool.strides, pool.padding) == ((3, 3), (2, 2), "same")

    def test_the_stages_have_3_4_6_3_blocks_of_the_papers_widths(self, paper):
        grouped = [(g.filters, g.strides) for g in _grouped(paper)]
        assert grouped == (
            [(128, (1, 1))] * 3
            + [(256, (2, 2))] + [(256, (1, 1))] * 3
            + [(512, (2, 2))] + [(512, (1, 1))] * 5
            + [(1024, (2, 2))] + [(1024, (1, 1))] * 2
        )  # fmt: skip
        outer = [paper.get_layer(f"stage{s}_block1_sum").output.shape[-1] for s in (1, 2, 3, 4)]
        assert outer == [256, 512, 1024, 2048]

    def test_only_the_first_block_of_every_stage_has_a_projection(self, paper):
        joined = [layer.name for layer in _of_type(paper, keras.layers.Add)]
        assert len(joined) == 16
        projected = []
        for name in joined:
            shortcut = paper.get_layer(name).input[0]._keras_history.operation
            if isinstance(shortcut, keras.layers.BatchNormalization):
                convolution = shortcut.input._keras_history.operation
                assert convolution.kernel_size == (1, 1)
                projected.append((name, convolution.strides))
            else:
                assert isinstance(shortcut, keras.layers.LeakyReLU)  # the block before, untouched
        assert projected == [
            ("stage1_block1_sum", (1, 1)),
            ("stage2_block1_sum", (2, 2)),
            ("stage3_block1_sum", (2, 2)),
            ("stage4_block1_sum", (2, 2)),
        ]

    def test_a_block_activates_after_its_sum_and_not_before_it(self, paper):
        for added in _of_type(paper, keras.layers.Add):
            branch = added.input[1]._keras_history.operation
            assert isinstance(branch, keras.layers.BatchNormalization)
            (node,) = added._outbound_nodes
            assert isinstance(node.operation, keras.layers.LeakyReLU)

    def test_it_sees_400_pixels_scaled_by_1_255_and_ends_at_13_by_13(self, paper):
        (scaling,) = _of_type(paper, CellScaling)
        assert scaling.size == 400
        assert paper.get_layer("last_feature_map").output.shape == (None, 13, 13, 2048)


class TestArguments:
    def test_activation_takes_the_name_of_any_keras_activation(self):
        model = build_resnext(**TINY, activation="silu")
        assert not _of_type(model, keras.layers.LeakyReLU)
        used = {a.activation.__name__ for a in _of_type(model, keras.layers.Activation)}
        assert used == {"silu", "linear"}

    def test_blocks_widths_cardinality_size_outputs_and_momentum_are_those_asked_for(self):
        model = build_resnext(
            input_size=48,
            num_outputs=7,
            blocks=(2, 1, 1),
            stem_width=12,
            width=24,
            cardinality=6,
            batch_norm_momentum=0.5,
        )
        grouped = _grouped(model)
        assert [(g.filters, g.groups) for g in grouped] == [(24, 6), (24, 6), (48, 6), (96, 6)]
        assert _of_type(model, keras.layers.Conv2D)[0].filters == 12
        assert model.output_shape == (None, 7)
        assert model.get_layer("last_feature_map").output.shape == (None, 3, 3, 192)
        norms = _of_type(model, keras.layers.BatchNormalization)
        assert {n.momentum for n in norms} == {0.5}

    def test_a_cardinality_that_does_not_divide_the_width_is_refused_with_both_numbers(self):
        with pytest.raises(ValueError, match="cardinality=5 must divide width=128"):
            build_resnext(cardinality=5)

    def test_an_activation_that_keras_lacks_is_bad_input(self):
        with pytest.raises(UserError, match=r"model\.activation .* Received: swoosh"):
            from_config(ModelConfig(activation="swoosh"), "float32")

    def test_from_config_leaves_the_global_dtype_policy_as_it_was(self):
        before = keras.config.dtype_policy().name
        model = from_config(ModelConfig(**TINY), "mixed_bfloat16")
        assert keras.config.dtype_policy().name == before
        assert _grouped(model)[0].compute_dtype == "bfloat16"


class TestPredictions:
    def test_uint8_and_float_images_give_the_same(self, tiny, images):
        np.testing.assert_array_equal(tiny(images), tiny(images.astype(np.float32)))

    @pytest.mark.parametrize("size", [(32, 32), (17, 90), (400, 400), (1, 1)])
    def test_images_of_any_size_are_accepted(self, tiny, size):
        image = np.random.default_rng(3).integers(0, 256, (1, *size, 3), np.uint8)
        assert tiny(image).shape == (1, 15)

    def test_an_image_is_seen_as_if_its_middle_had_been_resized_before(self):
        model = build_resnext(**TINY, field=50)
        image = np.random.default_rng(3).integers(0, 256, (1, 54, 61, 3), np.uint8)
        resized = tf.image.resize(image[:, 2:52, 5:55], (32, 32), antialias=True)
        expected = strip_scaling(model)(resized / 255)
        np.testing.assert_allclose(model(image), expected, atol=1e-6)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
    def test_probabilities_are_float32_and_sum_to_1_in_every_precision(self, policy, images):
        probabilities = from_config(ModelConfig(**TINY), policy)(images)
        assert probabilities.dtype == tf.float32
        np.testing.assert_allclose(np.sum(probabilities, axis=1), 1, atol=1e-6)

    def test_mixed_precision_stays_near_to_float32(self, tiny, images):
        mixed = from_config(ModelConfig(**TINY), "mixed_bfloat16")
        mixed.set_weights(tiny.get_weights())
        np.testing.assert_allclose(mixed(images), tiny(images), atol=0.02)

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
    def test_gradients_are_finite_where_a_stage_shrinks_to_one_pixel(self, policy):
        """The smallest input that a configuration allows, with four stages."""
        config = ModelConfig(
            input_size=16, blocks=[1, 1, 1, 1], stem_width=8, width=16, cardinality=4
        )
        model = from_config(config, policy)
        images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.math.log(model(images, training=True)[:, 0]))
        for variable, gradient in zip(
            model.trainable_variables,
            tape.gradient(loss, [v.value for v in model.trainable_variables]),
            strict=True,
        ):
            assert np.abs(gradient).max() < 1e3, variable.path


LOAD = """
import sys
{first}
try:
    model = keras.models.load_model({model!r})
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
import numpy as np
np.save({answer!r}, model.predict(np.load({images!r}), verbose=0))
"""


class TestElsewhere:
    """What holds in a process that has imported nothing yet."""

    @staticmethod
    def _load(saved: Path, first: str):
        files = {
            "model": str(saved / "tiny.keras"),
            "images": str(saved / "images.npy"),
            "answer": str(saved / "answer.npy"),
        }
        return run([sys.executable, "-c", LOAD.format(first=first, **files)])

    @pytest.mark.parametrize(
        "first", ["import leuko_tf, keras", "import keras, leuko_tf"], ids=["before", "after"]
    )
    def test_a_saved_model_loads_where_leuko_tf_is_imported_before_or_after_keras(
        self, saved, tiny, images, first
    ):
        done = self._load(saved, first)
        assert done.returncode == 0, done.stderr
        received = np.load(saved / "answer.npy")
        np.testing.assert_allclose(received, tiny.predict(images, verbose=0), atol=1e-6)

    def test_a_saved_model_does_not_load_without_importing_leuko_tf(self, saved):
        done = self._load(saved, "import keras")
        assert done.returncode == 1
        assert "Could not locate class 'CellScaling'" in done.stderr

    def test_importing_leuko_tf_imports_neither_keras_nor_tensorflow(self):
        program = (
            "import sys, leuko_tf, leuko_tf.classes, leuko_tf.cli, leuko_tf.config;"
            "print(*sorted({'keras', 'tensorflow'} & set(sys.modules)))"
        )
        done = run([sys.executable, "-c", program])
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == ""
