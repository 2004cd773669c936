"""Agreement of examiners: against the paper, against other methods, and for any answers."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from running import check_refusal, run_module

from leuko_tf.classes import CODES, QUESTIONS
from leuko_tf.cli import UserError
from leuko_tf.metrics.agreement import (
    PAIRS,
    compare_network,
    find_disputes,
    format_summary,
    join_annotations,
    measure_agreement,
    measure_operating_points,
    measure_pair_agreement,
    read_annotation_table,
    select_reannotated,
)
from leuko_tf.metrics.headline import get_nested
from leuko_tf.metrics.published import read_published_figures
from leuko_tf.predictions import EXAMINERS, PROBABILITIES


def _table(rows: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    """Label and two re-annotations a row."""
    table = pd.DataFrame([*rows], columns=["label", *EXAMINERS])
    table.insert(0, "id", [f"{r[0]}/{r[0]}_{i:04d}.tiff" for i, r in enumerate(rows)])
    return table


def _add_network(table: pd.DataFrame, answers: Sequence[str]) -> pd.DataFrame:
    """Adds probabilities of which the answers' are .9."""
    scores = np.full((len(table), 15), 0.1 / 14)
    scores[np.arange(len(table)), [CODES.index(answer) for answer in answers]] = 0.9
    return table.assign(fold=1, **pd.DataFrame(scores, columns=PROBABILITIES))


@pytest.fixture(scope="module")
def drawn() -> pd.DataFrame:
    """500 images of six classes, looked at by two examiners who err and hesitate."""
    rng = np.random.default_rng(7)
    codes = ["NGS", "LYT", "MON", "MYO", "PMO", "EBO"]
    labels = rng.choice(codes, 500, p=[0.3, 0.25, 0.15, 0.2, 0.05, 0.05])
    columns = []
    for right, uncertain in ((0.85, 0.03), (0.75, 0.12)):
        chance = rng.random(500)
        answers = np.where(chance < right, labels, rng.choice(codes, 500))
        columns.append(np.where(chance > 1 - uncertain, "UNC", answers))
    return _table(list(zip(labels.tolist(), *(c.tolist() for c in columns), strict=True)))


@pytest.fixture(scope="session")
def annotations_file(shared: Path) -> Path:
    return shared / "data" / "aml_lmu" / "annotations.dat"


@pytest.fixture(scope="module")
def annotations(annotations_file: Path) -> pd.DataFrame:
    return read_annotation_table(annotations_file)


@pytest.fixture(scope="module")
def real(annotations: pd.DataFrame) -> dict[str, Any]:
    """The agreement of the real examiners."""
    return measure_agreement(annotations)


def _round_like(value: float, like: str) -> str:
    """Formats a value with as many digits as the figure in print."""
    return f"{value:.{len(like) - 1}f}".removeprefix("0")


class TestRealExaminers:
    def test_1905_images_are_re_annotated_always_twice(self, annotations, real):
        assert len(annotations) == 18_365
        assert real["images"] == len(select_reannotated(annotations)) == 1905
        assert ((annotations[EXAMINERS] == "none").sum(axis=1).isin([0, 2])).all()

    @pytest.mark.parametrize(
        ("pair", "share", "kappa", "certain", "certain_images"),
        [
            ("label_reannotation_1", ".8488", ".800", ".878", 1842),
            ("label_reannotation_2", ".8026", ".747", ".901", 1697),
            ("reannotation_1_reannotation_2", ".8231", ".773", ".908", None),
        ],
    )
    def test_pairs_agree_as_in_the_paper(self, real, pair, share, kappa, certain, certain_images):
        found = real["classes"][pair]
        assert found["all"]["images"] == 1905
        assert _round_like(found["all"]["agreement"], share) == share
        assert _round_like(found["all"]["kappa"], kappa) == kappa
        assert _round_like(found["without_uncertain"]["agreement"], certain) == certain
        if certain_images:
            assert found["without_uncertain"]["images"] == certain_images

    def test_both_re_annotators_dispute_the_label_of_96_images(self, annotations, real):
        assert real["disputes"]["images"] == len(find_disputes(annotations)) == 96
        kinds = [(k["label"], k["reannotated"], k["images"]) for k in real["disputes"]["kinds"]]
        assert kinds[:6] == [
            ("MON", "MYO", 18), ("LYT", "MYO", 14), ("NGS", "NGB", 14), ("NGS", "MON", 9),
            ("MYO", "MON", 7), ("PMO", "MYO", 6),
        ]  # fmt: skip
        assert sum(images for *_, images in kinds) == 96

    def test_the_published_figures_of_the_examiners_are_exactly_these(self, real):
        published = read_published_figures()["examiners"]
        points = {q: real["questions"][q]["operating_points"] for q in QUESTIONS}
        assert published["images"] == real["images"]
        for ours, theirs in (
            (points, published["operating_points"]),
            (real["classes"], published["agreement"]),
        ):
            for place, figure in _list_leaves(theirs):
                value = get_nested(ours, place)
                assert figure == (value if isinstance(value, int) else round(value, 3)), place

    def test_a_plain_loop_over_the_lines_counts_the_same(self, annotations_file, real):
        lines = [line.split() for line in annotations_file.read_text().splitlines()]
        seen = [line for line in lines if line[2] != "nan"]
        for (one, other), pair in zip(((1, 2), (1, 3), (2, 3)), PAIRS, strict=True):
            found = real["classes"]["_".join(pair)]
            equal = sum(line[one] == line[other] for line in seen)
            certain = [line for line in seen if "UNC" not in (line[one], line[other])]
            assert found["all"]["agreement"] == pytest.approx(equal / len(seen))
            assert found["without_uncertain"]["agreement"] == pytest.approx(
                sum(line[one] == line[other] for line in certain) / len(certain)
            )
            assert np.sum(found["confusion_matrix"][f"rows_are_{pair[0]}"]) == len(seen)

    def test_joined_by_id_the_annotations_are_what_they_were(self, annotations):
        predicted = annotations.sample(frac=0.1, random_state=1)
        predicted = predicted.assign(**dict.fromkeys(EXAMINERS, "none"))
        joined = join_annotations(predicted, annotations)
        pd.testing.assert_frame_equal(joined, annotations.loc[predicted.index])


def _list_leaves(tree: dict, place: tuple[str, ...] = ()):
    for name, inside in tree.items():
        if isinstance(inside, dict):
            yield from _list_leaves(inside, (*place, name))
        else:
            yield (*place, name), inside


def _kappa(one: np.ndarray, other: np.ndarray) -> float:
    """Cohen 1960, from its definition."""
    chance = sum((one == answer).mean() * (other == answer).mean() for answer in np.unique(one))
    return ((one == other).mean() - chance) / (1 - chance)


def _kappa_standard_error(one: np.ndarray, other: np.ndarray) -> float:
    """Of large samples: Fleiss, Cohen, Everitt 1969, Psychological Bulletin 72:323, formula 13."""
    shares = pd.crosstab(one, other).astype(float)
    answers = shares.index.union(shares.columns)
    p = shares.reindex(index=answers, columns=answers, fill_value=0).to_numpy() / len(one)
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, chance = np.trace(p), rows @ columns
    on = (np.diag(p) * ((1 - chance) - (rows + columns) * (1 - observed)) ** 2).sum()
    # Row and column change places: p_ij with the column's share of i and the row's share of j.
    both = (columns[:, None] + rows[None, :]) ** 2
    off = (1 - observed) ** 2 * ((p * both).sum() - (np.diag(p) * np.diag(both)).sum())
    rest = (observed * chance - 2 * chance + observed) ** 2
    return float(np.sqrt((on + off - rest) / len(one)) / (1 - chance) ** 2)


@pytest.mark.parametrize("pair", PAIRS, ids="_".join)
class TestIntervals:
    def test_figures_are_those_of_a_loop_and_intervals_those_of_standard_errors(self, drawn, pair):
        """Each end to a quarter of the standard error: 2,000 replicates leave a tenth."""
        one, other = (drawn[column].to_numpy() for column in pair)
        found = measure_pair_agreement(drawn[pair[0]], drawn[pair[1]])
        assert found["images"] == 500
        share = sum(a == b for a, b in zip(one, other, strict=True)) / 500
        assert found["agreement"] == pytest.approx(share)
        assert found["kappa"] == pytest.approx(_kappa(one, other))
        for name, error in (
            ("kappa", _kappa_standard_error(one, other)),
            ("agreement", np.sqrt(share * (1 - share) / 500)),
        ):
            expected = found[name] + scipy.stats.norm.ppf([0.025, 0.975]) * error
            np.testing.assert_allclose(found[f"{name}_interval"], expected, atol=error / 4)

    def test_both_intervals_are_those_of_scipys_paired_bootstrap(self, drawn, pair):
        one, other = (drawn[column].to_numpy() for column in pair)
        found = measure_pair_agreement(drawn[pair[0]], drawn[pair[1]])
        for name, statistic in (("agreement", lambda a, b: (a == b).mean()), ("kappa", _kappa)):
            theirs = scipy.stats.bootstrap(
                (np.unique(one, return_inverse=True)[1], np.arange(len(other))),
                lambda _, rows, statistic=statistic: statistic(one[rows], other[rows]),
                paired=True,
                vectorized=False,
                method="percentile",
                n_resamples=2000,
                random_state=11,
            )
            np.testing.assert_allclose(
                found[f"{name}_interval"],
                theirs.confidence_interval,
                atol=theirs.standard_error / 4,
            )


ANSWERS = st.sampled_from(["NGS", "MYO", "MOB", "LYA", "UNC"])
LABELS = st.sampled_from(["NGS", "MYO", "MOB", "LYA"])
NOT_SEEN = st.tuples(LABELS, st.just("none"), st.just("none"))
ROWS = st.lists(st.one_of(st.tuples(LABELS, ANSWERS, ANSWERS), NOT_SEEN), min_size=1, max_size=30)


class TestOfAnyAnswers:
    @settings(deadline=None, max_examples=30)
    @given(ROWS)
    def test_figures_are_json_and_within_their_ranges(self, rows):
        table = _table([*rows, ("MON", "MON", "UNC")])
        found = measure_agreement(table)
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        seen = [row for row in rows if row[1] != "none"]
        assert found["images"] == len(seen) + 1
        pairs = [found["classes"], *found["questions"].values()]
        for compared in (p["_".join(pair)] for p in pairs for pair in PAIRS):
            for way in ("all", "without_uncertain"):
                _check_ranges(compared[way])
        assert "nan" not in format_summary(found).lower()
        assert found["disputes"]["images"] == sum(
            one == other != "UNC" and one != label for label, one, other in seen
        )

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(ANSWERS, ANSWERS), min_size=1, max_size=30))
    def test_the_order_of_a_pair_does_not_matter(self, rows):
        one, other = (pd.Series(column) for column in zip(*rows, strict=True))
        there, back = measure_pair_agreement(one, other), measure_pair_agreement(other, one)
        for name in ("images", "agreement", "kappa"):
            assert there[name] == pytest.approx(back[name])

    @settings(deadline=None, max_examples=30)
    @given(st.lists(ANSWERS, min_size=1, max_size=30))
    def test_examiners_who_always_agree_have_ones(self, answers):
        found = measure_pair_agreement(pd.Series(answers), pd.Series(answers))
        assert (found["agreement"], found["agreement_interval"]) == (1, [1, 1])
        # Of a single class, chance alone agrees fully.
        assert found["kappa"] == (pytest.approx(1) if len({*answers}) > 1 else None)
        assert found["kappa_interval"] in (None, [pytest.approx(1)] * 2)

    @settings(deadline=None, max_examples=15)
    @given(ROWS, st.randoms(use_true_random=False))
    def test_the_order_of_the_images_does_not_matter(self, rows, random):
        table = _table([*rows, ("MON", "MON", "UNC")])
        order = list(range(len(table)))
        random.shuffle(order)
        assert measure_agreement(table.iloc[order]) == measure_agreement(table)


def _check_ranges(figures: dict[str, Any]) -> None:
    if not figures["images"]:
        assert {figures[name] for name in figures if name != "images"} == {None}
        return
    assert 0 <= figures["agreement"] <= 1
    lower, upper = figures["agreement_interval"]
    assert 0 <= lower <= upper <= 1
    assert figures["kappa"] is None or -1 <= figures["kappa"] <= 1
    if figures["kappa_interval"]:
        lower, upper = figures["kappa_interval"]
        assert -1 <= lower <= upper <= 1


class TestExtremes:
    def test_examiners_who_never_know_agree_with_no_label(self):
        found = measure_agreement(_table([("NGS", "UNC", "UNC"), ("MYO", "UNC", "UNC")] * 5))
        with_label = found["classes"]["label_reannotation_1"]
        assert with_label["all"]["agreement"] == 0
        assert with_label["without_uncertain"]["images"] == 0
        assert with_label["without_uncertain"]["agreement"] is None
        # Not to know is an answer that they agree on, and for a binary question no yes.
        assert found["classes"]["reannotation_1_reannotation_2"]["all"]["agreement"] == 1
        assert found["questions"]["blast"]["label_reannotation_1"]["all"]["agreement"] == 0.5
        # Without them there is no image left whose point could be told.
        assert found["questions"]["blast"]["operating_points"] == {}
        assert found["disputes"] == {"images": 0, "kinds": []}

    def test_a_single_image_has_its_agreement_and_no_more(self):
        found = measure_agreement(_table([("MYO", "MYO", "LYT")]))
        assert found["images"] == 1
        right, wrong = (found["classes"][f"label_{column}"]["all"] for column in EXAMINERS)
        assert (right["agreement"], right["kappa"], right["kappa_interval"]) == (1, None, None)
        assert (wrong["agreement"], wrong["kappa"]) == (0, 0)
        assert found["questions"]["blast"]["operating_points"] == {}

    def test_images_of_one_class_have_no_operating_points(self):
        table = _table([("NGS", "NGS", "NGB")] * 4)
        assert measure_operating_points(table) == {}
        assert measure_agreement(table)["questions"]["blast"]["operating_points"] == {}

    def test_a_question_of_images_of_one_kind_is_left_out(self):
        """An erythroblast is atypical and no blast."""
        table = _table([("NGS", "NGS", "NGS"), ("EBO", "NGS", "EBO")])
        points = measure_operating_points(table)
        assert points is not None
        assert set(points) == {"atypical", "atypical_without_pmb"}
        assert points["atypical"]["reannotation_1"]["sensitivity"] == 0
        assert points["atypical"]["reannotation_2"]["sensitivity"] == 1

    def test_without_a_re_annotated_image_there_is_nothing_to_compare(self):
        table = _table([("NGS", "none", "none"), ("MYO", "MYO", "none")])
        with pytest.raises(UserError, match="no image has two re-annotations"):
            measure_agreement(table)
        assert measure_operating_points(table) is None
        assert compare_network(_add_network(table, ["NGS", "MYO"])) is None
        assert find_disputes(table).empty


class TestNetwork:
    ROWS = (
        ("NGS", "NGS", "NGS"),
        ("NGS", "NGB", "NGB"),  # disputed; the network is with the label
        ("MON", "MYO", "MYO"),  # disputed; with the re-annotators
        ("LYT", "MYO", "MYO"),  # disputed; with no one
        ("MYO", "MYO", "UNC"),
        ("MYO", "MYO", "MYO"),
        ("NGS", "EOS", "NGS"),
        ("MYO", "none", "none"),
        ("LYT", "none", "none"),
    )
    NETWORK = ("NGS", "NGS", "MYO", "EBO", "LYT", "MYO", "NGS", "MYO", "LYT")

    @pytest.fixture
    def table(self) -> pd.DataFrame:
        return _add_network(_table(self.ROWS), self.NETWORK)

    def test_its_figures_are_on_exactly_the_re_annotated_images(self, table):
        found = compare_network(table)
        figures = found["network"]["figures"]
        assert figures["images"] == found["images"] == 7
        assert figures["overall"]["accuracy"] == pytest.approx(4 / 7)
        by_label = np.sum(figures["confusion_matrix"]["rows_are_labels"], axis=1)
        assert dict(zip(CODES, by_label, strict=True)) == {
            code: sum(row[0] == code for row in self.ROWS[:7]) for code in CODES
        }
        assert figures["questions"]["blast"]["positives"] == 2
        examiners = figures["questions"]["blast"]["at_examiners"]
        assert set(examiners) == set(EXAMINERS)
        assert examiners["reannotation_1"]["sensitivity"] == 1
        assert examiners["reannotation_1"]["specificity"] == pytest.approx(3 / 5)

    def test_it_agrees_with_label_and_re_annotations_as_a_plain_loop_counts(self, table):
        found = compare_network(table)
        assert found["network"]["disputes"] == {"label": 1, "reannotated": 1, "neither": 1}
        pairs = found["network"]["agreement"]
        shares = {name: pair["all"]["agreement"] for name, pair in pairs.items()}
        assert [*shares] == ["label_network", "network_reannotation_1", "network_reannotation_2"]
        assert [*shares.values()] == pytest.approx([4 / 7, 3 / 7, 4 / 7])

    def test_the_examiners_agreement_is_what_it_is_without_a_network(self, table):
        found = compare_network(table)
        alone = measure_agreement(table[["id", "label", *EXAMINERS]])
        assert {name: found[name] for name in alone} == alone

    def test_images_that_are_not_re_annotated_change_nothing(self, table):
        assert compare_network(table) == compare_network(table.iloc[:7])

    def test_disputes_are_told_by_label_re_annotation_and_id(self, table):
        more = _add_network(_table([("NGS", "MON", "MON"), ("NGS", "NGB", "NGB")]), ["NGS", "NGB"])
        more["id"] = ["NGS/b.tiff", "NGS/a.tiff"]
        found = find_disputes(pd.concat([table, more], ignore_index=True))
        assert found.columns.tolist() == ["id", "label", "reannotated", "network", "probability"]
        # Classes in the paper's order, as everywhere.
        assert found.drop(columns="probability").to_numpy().tolist() == [
            ["NGS/NGS_0001.tiff", "NGS", "NGB", "NGS"],
            ["NGS/a.tiff", "NGS", "NGB", "NGB"],
            ["NGS/b.tiff", "NGS", "MON", "NGS"],
            ["LYT/LYT_0003.tiff", "LYT", "MYO", "EBO"],
            ["MON/MON_0002.tiff", "MON", "MYO", "MYO"],
        ]
        assert found["probability"].tolist() == pytest.approx([0.9] * 5)

    def test_disputes_without_a_network_tell_no_answer(self):
        assert find_disputes(_table(self.ROWS)).columns.tolist() == ["id", "label", "reannotated"]

    def test_both_not_knowing_is_no_dispute(self):
        assert find_disputes(_table([("NGS", "UNC", "UNC"), ("NGS", "NGB", "UNC")])).empty


class TestAnnotationTable:
    def test_it_holds_the_lines_with_none_for_not_re_annotated(self, tmp_path):
        file = tmp_path / "annotations.dat"
        file.write_text("NGS/b.tiff NGS NGS UNC\nMYO/a.tiff.tiff MYO nan nan\n")
        table = read_annotation_table(file)
        assert table.columns.tolist() == ["id", "label", *EXAMINERS]
        assert table.to_numpy().tolist() == [
            ["NGS/b.tiff", "NGS", "NGS", "UNC"],
            ["MYO/a.tiff.tiff", "MYO", "none", "none"],
        ]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "cannot be read: 1 problem.*empty annotation file"),
            ("NGS/a.tiff NGS NGS\n", "cannot be read: 1 problem.*malformed line.*line 1"),
            ("NGS/a.tiff NGS NGS XYZ\n", "cannot be read: 1 problem.*unknown code.*line 1"),
            ("NGS/a.tiff UNC NGS NGS\n", "cannot be read: 1 problem.*unknown code.*line 1"),
            ("NGS/a.tiff MYO NGS NGS\n", "cannot be read.*label that contradicts.*line 1"),
            ("NGS/a.tiff NGS NGS NGS\n" * 2, "cannot be read.*listed twice.*first in line 1"),
            ("NGS/é.tiff NGS NGS\n\n", "cannot be read: 1 problem"),
            ("x" * 5000, r"cannot be read: 1 problem.*line 1: 'x{,40}\.\.\.x{,40}'$"),
        ],
    )
    def test_lines_that_are_not_as_described_are_told(self, tmp_path, content, message):
        file = tmp_path / "annotations.dat"
        file.write_text(content, encoding="latin-1")
        with pytest.raises(UserError, match=f"(?s)^{file} {message}"):
            read_annotation_table(file)


class TestWithAnnotations:
    ANNOTATIONS = _table([("NGS", "NGS", "UNC"), ("MYO", "none", "none"), ("LYT", "MYO", "MYO")])

    def test_they_join_by_id_whatever_the_order(self):
        predicted = self.ANNOTATIONS.iloc[[2, 0]].assign(**dict.fromkeys(EXAMINERS, "none"))
        predicted = _add_network(predicted.reset_index(drop=True), ["LYT", "EOS"])
        joined = join_annotations(predicted, self.ANNOTATIONS)
        assert joined[EXAMINERS].to_numpy().tolist() == [["MYO", "MYO"], ["NGS", "UNC"]]
        pd.testing.assert_frame_equal(
            joined.drop(columns=EXAMINERS), predicted.drop(columns=EXAMINERS)
        )

    def test_an_id_that_is_not_annotated_is_named(self):
        predicted = self.ANNOTATIONS.assign(id=["NGS/NGS_0000.tiff", "MYO/x.tiff", "LYT/y.tiff"])
        with pytest.raises(
            UserError, match=r"2 predicted images are not in the annot.* first is MYO/x\.tiff"
        ):
            join_annotations(predicted, self.ANNOTATIONS)

    def test_a_label_that_is_another_there_is_named(self):
        predicted = self.ANNOTATIONS.assign(label=["NGS", "MYO", "LYA"])
        with pytest.raises(
            UserError, match=r"1 predicted images have another label.* LYT/LYT_0002\.tiff"
        ):
            join_annotations(predicted, self.ANNOTATIONS)


def _run(*words: object):
    return run_module("leuko_tf.examiners", *words)


class TestCommand:
    def test_it_tells_the_real_examiners_figures_and_writes_them(
        self, annotations_file, annotations, real, tmp_path
    ):
        done = _run(annotations_file, "--out", tmp_path / "new")
        assert (done.returncode, done.stderr) == (0, "")
        assert "1,905 re-annotated images" in done.stdout
        assert re.search(
            r"label, reannotation_1 +1905  0\.8488 \(0\.8\d+ to 0\.8\d+\)", done.stdout
        )
        assert re.search(r"without UNC +1697  0\.9010 ", done.stdout)
        assert re.search(r"blast, reannotation_2 +1905  0\.799 +0\.957 +0\.909$", done.stdout, re.M)
        assert "agree against the label: 96 images" in done.stdout
        assert "MON to MYO: 18" in done.stdout
        assert json.loads((tmp_path / "new" / "examiners.json").read_text()) == real
        listed = pd.read_csv(tmp_path / "new" / "disputes.csv")
        pd.testing.assert_frame_equal(listed, find_disputes(annotations), check_dtype=False)

    def test_it_takes_the_annotations_of_drawn_cells_too(self, smear, tmp_path):
        done = _run(smear / "annotations.dat", "--out", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        lines = (smear / "annotations.dat").read_text().splitlines()
        seen = sum(not line.endswith("nan nan") for line in lines)
        assert seen > 5
        assert done.stdout.startswith(f"{seen} re-annotated images")
        assert json.loads((tmp_path / "examiners.json").read_text())["images"] == seen

    def test_without_a_folder_it_writes_nothing(self, tmp_path):
        file = tmp_path / "annotations.dat"
        file.write_text("NGS/a.tiff NGS NGS UNC\nMYO/b.tiff MYO LYT LYT\n")
        done = _run(file)
        assert (done.returncode, done.stderr) == (0, "")
        assert "LYT" in done.stdout
        assert [f.name for f in tmp_path.iterdir()] == ["annotations.dat"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "No file .*annotations.dat"),
            ("NGS/a.tiff NGS NGS nan\n", "annotations.dat: no image has two re-annotations"),
            ("NGS/a.tiff NGS NGS\n", "cannot be read: 1 problem.*malformed line.*line 1"),
        ],
    )
    def test_bad_input_ends_in_one_message_and_no_file(self, tmp_path, content, message):
        file = tmp_path / "annotations.dat"
        if content is not None:
            file.write_text(content)
        done = _run(file, "--out", tmp_path / "new")
        check_refusal(done, str(file))
        assert re.match(f"error: .*{message}", done.stderr, re.DOTALL)
        assert done.stdout == ""
        assert not (tmp_path / "new").exists()

    def test_a_folder_in_the_place_of_either_file_is_refused(self, tmp_path):
        file = tmp_path / "annotations.dat"
        file.write_text("NGS/a.tiff NGS NGS UNC\n")
        for words, message in (
            ((tmp_path,), f"error: No file {tmp_path}. Name the annotations.dat"),
            ((file, "--out", file), "error: [Errno 17] File exists"),
        ):
            done = _run(*words)
            check_refusal(done, message)
            assert (done.stdout, done.stderr.count("\n")) == ("", 1)
