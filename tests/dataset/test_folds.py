"""Folds with groups of images that must not be parted; without groups, see test_download.py."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuko_tf.classes import CODES
from tfds_aml.folds import FOLDS, assign_folds

# (class, size of a group of that class) of each group.
groups = st.lists(st.tuples(st.sampled_from(CODES), st.integers(1, 4)), max_size=60)


def images_of(groups: list[tuple[str, int]]) -> tuple[dict[str, str], dict[str, str]]:
    """Classes and groups by image id."""
    members = [
        (f"{g}-{i}", code, str(g)) for g, (code, size) in enumerate(groups) for i in range(size)
    ]
    return {i: code for i, code, _ in members}, {i: group for i, _, group in members}


@given(groups)
def test_a_group_stays_in_one_fold(groups):
    label_by_id, group_by_id = images_of(groups)
    folds = assign_folds(label_by_id, group_by_id)
    assert folds.keys() == label_by_id.keys()
    assert len({(group_by_id[i], fold) for i, fold in folds.items()}) == len(groups)


@given(groups)
def test_folds_of_a_class_differ_by_at_most_its_largest_group(groups):
    folds = assign_folds(*images_of(groups))
    label_by_id, _ = images_of(groups)
    for code in {code for code, _ in groups}:
        sizes = Counter(folds[i] for i in folds if label_by_id[i] == code)
        largest = max(size for c, size in groups if c == code)
        assert max(sizes.values()) - min(sizes[k] for k in FOLDS) <= largest


@given(st.integers(0, 7), st.integers(8, 30))
def test_single_images_even_out_what_pairs_left_uneven(pairs, singles):
    folds = assign_folds(*images_of([("BAS", 1)] * singles + [("BAS", 2)] * pairs))
    sizes = Counter(folds.values())
    assert max(sizes.values()) - min(sizes[k] for k in FOLDS) <= 1


@given(groups, st.randoms())
def test_neither_order_nor_names_of_groups_change_anything(groups, random):
    label_by_id, group_by_id = images_of(groups)
    shuffled = random.sample(list(label_by_id.items()), len(label_by_id))
    renamed = {i: f"another {group}" for i, group in group_by_id.items()}
    assert assign_folds(dict(shuffled), renamed) == assign_folds(label_by_id, group_by_id)


@given(st.dictionaries(st.text(max_size=8), st.sampled_from(CODES), max_size=120))
def test_groups_of_one_are_no_groups(label_by_id):
    alone = {i: f"group of {i}" for i in label_by_id}
    assert assign_folds(label_by_id, alone) == assign_folds(label_by_id)


def test_a_group_of_two_classes_is_refused():
    with pytest.raises(ValueError, match="different classes"):
        assign_folds({"a": "BAS", "b": "EOS"}, {"a": "same", "b": "same"})
