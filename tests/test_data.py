"""From cells to batches: sampling, augmentation, validation, resuming; without a built data set."""

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from leuko_tf.data import augmentation, pipeline
from leuko_tf.data.images import compute_scale_factor
from leuko_tf.network.layers import CellScaling
from leuko_tf.network.view import to_network_input


def _config(size: int = 16, seed: int = 1, epochs: int = 4, **of_data) -> Config:
    return Config(
        data=DataConfig(**{"batch_size": 8, **of_data}),
        model=ModelConfig(input_size=size),
        train=TrainConfig(seed=seed, epochs=epochs),
    )


def _cells(number: int, size: int = 16) -> pipeline.Cells:
    """Random cells whose first channel is their index."""
    images = np.random.default_rng(0).integers(0, 256, (number, size, size, 3), np.uint8)
    images[..., 0] = np.arange(number)[:, np.newaxis, np.newaxis]
    return pipeline.Cells(images, np.arange(number, dtype=np.int64) % 7)


def _draw_photograph(size: int) -> np.ndarray:
    """A smooth picture without symmetry, so that interpolation hardly blurs it."""
    noise = np.random.default_rng(4).uniform(0, 255, (size, size, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (size / 12, size / 12, 0))
    smooth -= smooth.min()
    return (smooth * 255 / smooth.max()).round().astype(np.uint8)


def _rotate(image: np.ndarray, degrees: float, flips: tuple[int, int] = (1, 1)) -> np.ndarray:
    transforms = augmentation.compute_affine_transforms(
        np.array([np.radians(degrees)]), np.array([flips], float), image.shape[0]
    )
    turned = augmentation.rotate_batch(image[np.newaxis], transforms, image.shape[0])[0]
    assert turned.dtype == np.uint8
    return turned.astype(np.float32)


labels_of_classes = st.lists(st.integers(0, 14), min_size=1, max_size=60).map(
    lambda labels: np.array(labels, np.int64)
)


class TestPlanEpoch:
    @settings(deadline=None)
    @given(labels_of_classes, st.integers(1, 40), st.integers(0, 3))
    def test_each_class_gives_as_many_samples_as_asked_with_even_use_of_its_images(
        self, labels, samples_per_class, epoch
    ):
        plan = augmentation.plan_epoch(labels, _config(samples_per_class=samples_per_class), epoch)
        uses = np.bincount(plan.indices, minlength=len(labels))
        for label in np.unique(labels):
            of_class = uses[labels == label]
            assert of_class.sum() == samples_per_class
            assert of_class.max() - of_class.min() <= 1

    @settings(deadline=None)
    @given(labels_of_classes, st.integers(0, 3))
    def test_without_a_number_each_image_is_used_once(self, labels, epoch):
        plan = augmentation.plan_epoch(labels, _config(), epoch)
        np.testing.assert_array_equal(np.sort(plan.indices), np.arange(len(labels)))

    @settings(deadline=None)
    @given(labels_of_classes, st.integers(0, 2**32 - 1), st.integers(0, 100))
    def test_the_same_seed_and_epoch_give_the_same_plan(self, labels, seed, epoch):
        config = _config(seed=seed, samples_per_class=5)
        one, again = (augmentation.plan_epoch(labels, config, epoch) for _ in range(2))
        np.testing.assert_array_equal(one.indices, again.indices)
        np.testing.assert_array_equal(one.transforms, again.transforms)

    @pytest.mark.parametrize("samples_per_class", [None, 20])
    @pytest.mark.parametrize(("seed", "epoch"), [(1, 1), (2, 0)])
    def test_another_epoch_or_seed_gives_another_plan(self, seed, epoch, samples_per_class):
        labels = np.arange(100) % 5
        one = augmentation.plan_epoch(labels, _config(samples_per_class=samples_per_class), 0)
        config = _config(seed=seed, samples_per_class=samples_per_class)
        other = augmentation.plan_epoch(labels, config, epoch)
        assert (one.indices != other.indices).mean() > 0.5
        assert (one.transforms != other.transforms).any(axis=1).mean() > 0.5

    def test_classes_are_mixed_within_the_epoch(self):
        labels = np.repeat(np.arange(5), 20)
        plan = augmentation.plan_epoch(labels, _config(samples_per_class=40), 0)
        assert len(np.unique(labels[plan.indices][:20])) == 5

    def test_turns_cover_the_circle_and_flips_all_four_kinds(self):
        plan = augmentation.plan_epoch(np.zeros(400, int), _config(), 0)
        xx, xy, yx, yy = plan.transforms[:, :, :2].reshape(-1, 4).T
        mirrored = xx * yy - xy * yx < 0
        assert 0.4 < mirrored.mean() < 0.6
        angles = np.degrees(np.arctan2(-xy, xx))
        counts, _ = np.histogram(angles, bins=8, range=(-180, 180))
        assert counts.min() > 25  # 50 expected

    def test_without_augmentation_every_transform_is_the_identity(self):
        plan = augmentation.plan_epoch(np.zeros(9, int), _config(rotate=False, flip=False), 0)
        np.testing.assert_array_equal(plan.transforms, [[[1, 0, 0], [0, 1, 0]]] * 9)

    def test_flips_alone_do_not_turn_and_turns_alone_do_not_flip(self):
        labels = np.zeros(50, int)
        flipped = augmentation.plan_epoch(labels, _config(rotate=False), 0).transforms
        assert set(np.abs(flipped[:, [0, 1], [0, 1]]).ravel()) == {1.0}
        assert not flipped[:, [0, 1], [1, 0]].any()
        turned = augmentation.plan_epoch(labels, _config(flip=False), 0).transforms
        np.testing.assert_allclose(np.linalg.det(turned[:, :, :2]), 1, atol=1e-6)

    def test_zooms_enlarge_and_shrink_up_to_the_share_asked_for(self):
        config = _config(rotate=False, flip=False, zoom=0.25)
        plan = augmentation.plan_epoch(np.zeros(400, int), config, 0)
        scales = plan.transforms[:, [0, 1], [0, 1]]
        np.testing.assert_array_equal(scales[:, 0], scales[:, 1])
        assert 0.8 <= scales.min() < 0.81
        assert 1.24 < scales.max() <= 1.25
        assert 0.4 < (scales > 1).mean() < 0.6

    def test_shifts_move_the_middle_up_to_the_share_asked_for(self):
        config = _config(size=40, shift=0.1)
        plan = augmentation.plan_epoch(np.zeros(400, int), config, 0)
        middle = plan.transforms @ [19.5, 19.5, 1] - 19.5
        assert 3.9 < np.abs(middle).max() <= 4.0001
        assert (np.abs(middle.mean(axis=0)) < 0.5).all()

    def test_what_was_drawn_before_stays_the_same_when_zooms_and_shifts_come_in(self):
        labels = np.arange(30) % 5
        one = augmentation.plan_epoch(labels, _config(), 0)
        other = augmentation.plan_epoch(labels, _config(zoom=0.2, shift=0.1), 0)
        np.testing.assert_array_equal(one.indices, other.indices)
        turns = [plan.transforms[:, :, :2] for plan in (one, other)]
        sizes = [np.sqrt(np.abs(np.linalg.det(turn)))[:, None, None] for turn in turns]
        np.testing.assert_allclose(turns[0] / sizes[0], turns[1] / sizes[1], atol=1e-6)


ONE_LEVEL = 1.01  # of 255: results are rounded to whole grey levels


@pytest.mark.parametrize("size", [32, 33])
class TestTransforms:
    def test_no_turn_and_no_flip_leave_the_image_as_it_is(self, size):
        image = _draw_photograph(size)
        np.testing.assert_array_equal(_rotate(image, 0), image)

    @pytest.mark.parametrize(("flips", "axis"), [((-1, 1), 1), ((1, -1), 0), ((-1, -1), (0, 1))])
    def test_flips_are_exact(self, size, flips, axis):
        """Flips are (horizontal, vertical): a horizontal one reverses the columns."""
        image = _draw_photograph(size)
        np.testing.assert_array_equal(_rotate(image, 0, flips), np.flip(image, axis))

    @pytest.mark.parametrize("quarters", [1, 2, 3, 4])
    def test_quarter_turns_are_counter_clockwise_and_exact(self, size, quarters):
        image = _draw_photograph(size)
        np.testing.assert_array_equal(_rotate(image, 90 * quarters), np.rot90(image, quarters))

    @pytest.mark.parametrize("degrees", [1, 30, 45, 123.4, 200, 359])
    def test_any_turn_is_scipys_within_the_inner_circle(self, size, degrees):
        """Both interpolate bilinearly; outside of the circle they fill differently."""
        image = _draw_photograph(size)
        expected = scipy.ndimage.rotate(image.astype(float), degrees, reshape=False, order=1)
        y, x = np.mgrid[:size, :size] - (size - 1) / 2
        inside = np.hypot(x, y) < size / 2 - 1
        np.testing.assert_allclose(
            _rotate(image, degrees)[inside], expected[inside], atol=ONE_LEVEL
        )

    @pytest.mark.parametrize("flips", [(-1, 1), (1, -1)])
    def test_an_image_is_flipped_first_and_then_rotate(self, size, flips):
        image = _draw_photograph(size)
        flipped = _rotate(image, 0, flips).astype(np.uint8)
        np.testing.assert_allclose(_rotate(image, 30, flips), _rotate(flipped, 30), atol=ONE_LEVEL)

    def test_corners_laid_bare_are_filled_from_the_image(self, size):
        """Reflection: a bright image has no dark corner at any angle."""
        image = np.full((size, size, 3), 200, np.uint8)
        for degrees in range(0, 360, 15):
            np.testing.assert_array_equal(_rotate(image, degrees), 200)


class TestValidationSplit:
    @settings(deadline=None)
    @given(labels_of_classes, st.floats(0, 0.5), st.integers(0, 2**32 - 1))
    def test_each_class_gives_its_share_and_keeps_at_least_one_image(self, labels, share, seed):
        chosen = pipeline.choose_validation(labels, share, seed)
        assert chosen.shape == labels.shape
        assert chosen.dtype == bool
        for label in np.unique(labels):
            members = labels == label
            assert chosen[members].sum() == round(members.sum() * share)
            assert not chosen[members].all()
        again = pipeline.choose_validation(labels, share, seed)
        np.testing.assert_array_equal(chosen, again)

    def test_another_seed_chooses_others(self):
        labels = np.zeros(100, int)
        one, other = (pipeline.choose_validation(labels, 0.5, seed) for seed in (1, 2))
        assert (one != other).any()


class TestTrainingBatches:
    MEMBERS = np.arange(1, 60, 2)  # 30 of 60 cells

    def _batches(self, config, first_epoch=0):
        batches = pipeline.make_training_batches(_cells(60), self.MEMBERS, config, first_epoch)
        return list(batches.as_numpy_iterator())

    def test_images_are_float32_from_0_to_255_and_labels_one_hot(self):
        config = _config(samples_per_class=8)
        batches = pipeline.make_training_batches(_cells(60), self.MEMBERS, config, 0)
        images, labels = batches.element_spec
        assert (images.shape, images.dtype) == ((8, 16, 16, 3), tf.float32)
        assert (labels.shape, labels.dtype) == ((8, 15), tf.float32)
        for images, labels in batches.take(3).as_numpy_iterator():
            assert images.min() >= 0
            assert 1 < images.max() <= 255
            np.testing.assert_array_equal(np.sort(labels, axis=1)[:, -2:], [[0, 1]] * 8)

    def test_every_image_comes_with_its_own_label_and_only_members_come(self):
        config = _config(rotate=False, flip=False, epochs=2)
        cells = _cells(60)
        for images, labels in self._batches(config):
            indices = images[:, 0, 0, 0].astype(int)
            assert set(indices) <= set(self.MEMBERS)
            np.testing.assert_array_equal(images, cells.images[indices])
            np.testing.assert_array_equal(labels.argmax(axis=1), cells.labels[indices])

    def test_an_epoch_has_as_many_whole_batches_as_its_samples_fill(self):
        config = _config(epochs=3)
        assert pipeline.count_steps(_cells(60).labels[self.MEMBERS], config) == 3  # 30 by 8
        assert len(self._batches(config)) == 9
        config = _config(epochs=3, samples_per_class=9)  # 7 classes
        assert pipeline.count_steps(_cells(60).labels[self.MEMBERS], config) == 7  # 63 by 8
        assert len(self._batches(config)) == 21

    @pytest.mark.parametrize("samples_per_class", [None, 9])
    def test_within_an_epoch_the_batches_follow_its_plan(self, samples_per_class):
        config = _config(samples_per_class=samples_per_class, rotate=False, flip=False, epochs=2)
        labels = _cells(60).labels[self.MEMBERS]
        used = np.concatenate([images[:, 0, 0, 0] for images, _ in self._batches(config)])
        steps = pipeline.count_steps(labels, config)
        planned = [
            self.MEMBERS[augmentation.plan_epoch(labels, config, epoch).indices[: steps * 8]]
            for epoch in (0, 1)
        ]
        np.testing.assert_array_equal(used.astype(int), np.concatenate(planned))

    @pytest.mark.parametrize("samples_per_class", [None, 9])
    @pytest.mark.parametrize("first_epoch", [1, 3])
    def test_a_resumed_run_sees_bit_for_bit_what_an_unbroken_one_would_have(
        self, first_epoch, samples_per_class
    ):
        config = _config(samples_per_class=samples_per_class)
        labels = _cells(60).labels[self.MEMBERS]
        unbroken = self._batches(config)[first_epoch * pipeline.count_steps(labels, config) :]
        resumed = self._batches(config, first_epoch)
        assert len(resumed) == len(unbroken) > 0
        for one, other in zip(resumed, unbroken, strict=True):
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])

    def test_a_batch_larger_than_an_epoch_is_refused_by_its_key(self):
        with pytest.raises(UserError, match=r"data\.batch_size=64 is more than the 30 samples"):
            self._batches(_config(batch_size=64))


class TestPlainBatches:
    def test_members_come_once_in_order_and_unchanged(self):
        cells, members = _cells(30), np.array([3, 1, 4, 15, 9, 2, 6])
        config = _config(batch_size=3)
        batches = list(pipeline.make_plain_batches(cells, members, config).as_numpy_iterator())
        assert [len(labels) for _, labels in batches] == [3, 3, 1]
        images = np.concatenate([images for images, _ in batches])
        labels = np.concatenate([labels for _, labels in batches])
        assert images.dtype == labels.dtype == np.float32
        np.testing.assert_array_equal(images, cells.images[members])
        np.testing.assert_array_equal(labels, np.eye(len(CODES))[cells.labels[members]])


@pytest.mark.parametrize("shape", [(50, 41), (30, 30), (23, 60)])
@pytest.mark.parametrize("factor", [1.0, 0.7, 1.31])
def test_images_are_seen_as_the_model_would_and_rounded_to_grey_levels(shape, factor):
    image = np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)
    example = {"image": tf.constant(image), "label": 3}
    prepared = pipeline._prepare_example(example, field=30, size=20, factor=factor)
    assert prepared["image"].dtype == tf.uint8
    assert prepared["label"] == 3
    if factor != 1:
        sides = [round(side * factor) for side in shape]
        image = np.asarray(Image.fromarray(image).resize(sides[::-1], Image.Resampling.BILINEAR))
    expected = CellScaling(20, field=30)(image[np.newaxis])[0] * 255
    np.testing.assert_allclose(prepared["image"].numpy(), expected, atol=0.501)


def test_without_a_size_images_keep_their_pixels():
    image = np.random.default_rng(2).integers(0, 256, (50, 41, 3), np.uint8)
    prepared = pipeline._prepare_example(
        {"image": tf.constant(image)}, field=41, size=None, factor=1.0
    )
    np.testing.assert_array_equal(prepared["image"], image[4:45])


class TestMargin:
    """Around a field closer to the cell the cells of a training keep what their turns need."""

    @given(st.integers(16, 400), st.integers(16, 400))
    def test_it_is_a_whole_number_of_pixels_within_the_image(self, size, field):
        config = Config(model=ModelConfig(input_size=size, field=field))
        around = augmentation.compute_margin(config)
        side = field * (size + 2 * around)
        assert side % size == 0
        assert side // size <= 400
        assert around <= 0.21 * size

    @pytest.mark.parametrize("shape", [(360, 363), (400, 400), (366, 369)])
    def test_the_middle_is_what_the_network_sees_to_the_pixel(self, shape):
        config = Config(model=ModelConfig(input_size=96, field=288))
        around = augmentation.compute_margin(config)
        assert around == 18
        image = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
        example = {"image": tf.constant(image)}
        cell = pipeline._prepare_example(example, field=396, size=132, factor=1.0)["image"].numpy()
        middle = cell[around:-around, around:-around].astype(float)
        expected = np.round(to_network_input(image[None], 288, 96)[0])
        # Antialiasing reaches over the field's edge, where there is something to reach.
        np.testing.assert_array_equal(middle[1:-1, 1:-1], expected[1:-1, 1:-1])

    def test_without_turns_or_with_the_whole_image_there_is_none(self):
        assert augmentation.compute_margin(_config(rotate=False)) == 0
        assert augmentation.compute_margin(_config()) == 0

    def test_turned_corners_show_the_image_and_no_mirror(self):
        """A turn by 45 degrees of the middle equals the middle of the whole image's turn."""
        config = Config(model=ModelConfig(input_size=40, field=200))
        around = augmentation.compute_margin(config)
        assert around == 8
        whole = _draw_photograph(80)
        cell = whole[12:68, 12:68]
        angle, flip = np.array([np.pi / 4]), np.array([[1.0, -1.0]])
        transforms = augmentation.compute_affine_transforms(angle, flip, 40, around)
        turned = augmentation.rotate_batch(cell[np.newaxis], transforms, 40)[0].astype(float)
        expected = _rotate(whole, 45, (1, -1))[20:60, 20:60]
        assert np.abs(turned - expected).max() <= 2

    def test_batches_have_the_networks_size(self):
        config = _config(batch_size=3)
        config.model.field = 200
        cells, members = _cells(30, 22), np.arange(9)
        for images, _ in pipeline.make_training_batches(cells, members, config, 0).take(2):
            assert images.shape == (3, 16, 16, 3)
        plain = np.concatenate(
            [images for images, _ in pipeline.make_plain_batches(cells, members, config)]
        )
        np.testing.assert_array_equal(plain, cells.images[:9, 3:19, 3:19])


class TestScaleFactor:
    def test_larger_pixels_give_more_of_the_smaller_ones(self):
        assert compute_scale_factor(0.1, 0.0725) == pytest.approx(1.379, abs=1e-3)
        assert compute_scale_factor(0.1, 0.1) == 1

    @pytest.mark.parametrize("sides", [(6.5, 0.0725), (0.001, 0.1)])
    def test_a_slip_is_refused_before_it_fills_the_memory(self, sides):
        with pytest.raises(UserError, match="not on the camera's chip"):
            compute_scale_factor(*sides)


class TestOpenDataset:
    @pytest.mark.parametrize(
        "name", ["nothing_like_it", "aml_cytomorphology_lmu/nothing", "no//name", "mnist/", ""]
    )
    def test_an_unknown_name_is_refused_in_one_line(self, name, tmp_path):
        with pytest.raises(UserError) as caught:
            pipeline.open_dataset(name, str(tmp_path))
        text = str(caught.value)
        assert text.startswith(f"No data set {name}:")
        assert "\n" not in text

    @pytest.mark.parametrize("name", ["aml_cytomorphology_lmu/complete", "aml_cytomorphology_lmu"])
    def test_a_data_set_that_is_not_built_is_refused_with_the_command(self, name, tmp_path):
        with pytest.raises(UserError) as caught:
            pipeline.open_dataset(name, str(tmp_path))
        text = str(caught.value)
        assert text.startswith(f"{name} is not built in {tmp_path}")
        assert text.endswith(
            "tfds build aml_cytomorphology_lmu --imports tfds_aml --config complete "
            f"--manual_dir <download> --data_dir {tmp_path}"
        )
