"""Colours of samples, against the formulas written out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuko_tf.config import Config, DataConfig
from leuko_tf.data import augmentation


def _images(number: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, 10, 12, 3), np.uint8)


def _plan(epoch: int = 0, **of_data) -> augmentation.EpochPlan:
    return augmentation.plan_epoch(np.zeros(400, int), Config(data=DataConfig(**of_data)), epoch)


class TestAugmentStain:
    def test_nothing_changed_gives_the_image(self):
        plain = augmentation.compute_stain_transforms(np.ones((3, 3)), np.zeros((3, 3)))
        np.testing.assert_array_equal(augmentation.augment_stain(_images(), plain), _images())

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.floats(0.5, 1.5), min_size=3, max_size=3),
        st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=3),
    )
    def test_each_stain_is_scaled_and_each_density_raised(self, amounts, light):
        images = _images(1)
        colours = augmentation.compute_stain_transforms(np.array([amounts]), np.array([light]))
        densities = -np.log((images[0].astype(float) + 1) / 256)
        stains = np.linalg.solve(augmentation.STAINS.T, densities[..., np.newaxis])[..., 0]
        changed = (stains * amounts) @ augmentation.STAINS + light
        expected = np.clip(256 * np.exp(-changed) - 1, 0, 255)
        got = augmentation.augment_stain(images, colours)[0]
        np.testing.assert_allclose(got, expected, atol=0.51)

    def test_more_density_of_red_darkens_red_alone(self):
        colours = augmentation.compute_stain_transforms(
            np.ones((3, 3)), np.array([[0.3, 0, 0]] * 3)
        )
        got, before = augmentation.augment_stain(_images(), colours), _images()
        np.testing.assert_array_equal(got[..., 1:], before[..., 1:])
        assert (got[..., 0] <= before[..., 0]).all()
        assert (got[..., 0] < before[..., 0]).mean() > 0.9


class TestPlannedColours:
    def test_without_stain_the_colours_stay(self):
        plain = augmentation.compute_stain_transforms(np.ones((400, 3)), np.zeros((400, 3)))
        np.testing.assert_allclose(_plan().colours, plain, atol=1e-6)

    def test_light_and_amounts_change_by_up_to_the_share_asked_for(self):
        colours = _plan(stain=0.2).colours.astype(float)
        # The eigenvalues of a transform are the amounts of the three stains.
        for changes in (colours[:, :, 3], np.linalg.eigvals(colours[:, :, :3]).real - 1):
            assert changes.min() == pytest.approx(-0.2, abs=0.01)
            assert changes.max() == pytest.approx(0.2, abs=0.01)

    def test_every_epoch_draws_its_own_and_the_same_again(self):
        one, again, other = _plan(0, stain=0.2), _plan(0, stain=0.2), _plan(1, stain=0.2)
        np.testing.assert_array_equal(one.colours, again.colours)
        assert not np.array_equal(one.colours, other.colours)

    def test_they_leave_order_and_place_alone(self):
        one, other = _plan(), _plan(stain=0.2)
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.transforms, other.transforms)
