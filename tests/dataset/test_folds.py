"""Assigns images to folds, alone and in groups that must stay together."""

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuko_tf.classes import CODES
from tfds_aml.folds import FOLDS, assign_folds

# (class, size of a group of that class) of each group.
groups = st.lists(st.tuples(st.sampled_from(CODES), st.integers(1, 4)), max_size=60)
labels_by_id = st.dictionaries(st.text(max_size=8), st.sampled_from(CODES), max_size=120)


def make_images(groups: list[tuple[str, int]]) -> tuple[dict[str, str], dict[str, str]]:
    """Classes and groups by image id."""
    members = [
        (f"{g}-{i}", code, str(g)) for g, (code, size) in enumerate(groups) for i in range(size)
    ]
    return {i: code for i, code, _ in members}, {i: group for i, _, group in members}


def compute_spread(folds: list[int]) -> int:
    """Difference between the largest and the smallest fold."""
    sizes = Counter(folds)
    return max(sizes[k] for k in FOLDS) - min(sizes[k] for k in FOLDS)


@given(labels_by_id, st.randoms())
def test_single_images_spread_evenly_and_their_order_changes_nothing(label_by_id, random):
    folds = assign_folds(label_by_id)
    assert folds.keys() == label_by_id.keys()
    assert set(folds.values()) <= set(FOLDS)
    assert compute_spread(list(folds.values())) <= 1
    for code in set(label_by_id.values()):
        assert compute_spread([folds[i] for i in folds if label_by_id[i] == code]) <= 1
    shuffled = random.sample(list(label_by_id.items()), len(label_by_id))
    assert assign_folds(dict(shuffled)) == folds
    assert assign_folds(label_by_id, {i: f"group of {i}" for i in label_by_id}) == folds


@given(groups, st.randoms())
def test_a_group_stays_in_one_fold_and_order_and_names_change_nothing(groups, random):
    label_by_id, group_by_id = make_images(groups)
    folds = assign_folds(label_by_id, group_by_id)
    assert folds.keys() == label_by_id.keys()
    assert len({(group_by_id[i], fold) for i, fold in folds.items()}) == len(groups)
    for code in {code for code, _ in groups}:
        largest = max(size for c, size in groups if c == code)
        assert compute_spread([folds[i] for i in folds if label_by_id[i] == code]) <= largest
    shuffled = random.sample(list(label_by_id.items()), len(label_by_id))
    renamed = {i: f"another {group}" for i, group in group_by_id.items()}
    assert assign_folds(dict(shuffled), renamed) == folds


@given(st.integers(0, 7), st.integers(8, 30))
def test_single_images_even_out_what_pairs_left_uneven(pairs, singles):
    folds = assign_folds(*make_images([("BAS", 1)] * singles + [("BAS", 2)] * pairs))
    assert compute_spread(list(folds.values())) <= 1


def test_a_group_of_two_classes_is_refused():
    with pytest.raises(ValueError, match="different classes"):
        assign_folds({"a": "BAS", "b": "EOS"}, {"a": "same", "b": "same"})


def test_the_assignment_is_pinned():
    """Changing it changes every cross-validation made with it: raise VERSION as well."""
    pinned = {
        1: ["BAS/BAS_0004.tiff", "BAS/BAS_0005.tiff", "NGS/NGS_0002.tiff"],
        2: ["BAS/BAS_0006.tiff", "BAS/BAS_0007.tiff", "NGS/NGS_0004.tiff"],
        3: ["BAS/BAS_0001.tiff", "EBO/EBO_0002.tiff", "NGS/NGS_0003.tiff"],
        4: ["BAS/BAS_0003.tiff", "EBO/EBO_0001.tiff", "NGS/NGS_0001.tiff"],
        5: ["BAS/BAS_0002.tiff", "EBO/EBO_0003.tiff"],
    }
    label_by_id = {i: i[:3] for i in chain.from_iterable(pinned.values())}
    assert assign_folds(label_by_id) == {i: k for k, ids in pinned.items() for i in ids}
