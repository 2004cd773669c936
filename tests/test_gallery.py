"""The gallery's choice of cells, and its pictures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leuko_tf.classes import CODES, LINEAGE_ORDER
from leuko_tf.explanation import gallery
from leuko_tf.explanation.pictures import NOTE, split_panels, to_picture_name
from leuko_tf.predictions import PROBABILITIES


def _table(answers: list[tuple[str, str, float]]) -> pd.DataFrame:
    """Predictions with these labels, answers and probabilities; what is left goes to the others."""
    scores = np.array([[(1 - p) / 14] * 15 for *_, p in answers])
    scores[np.arange(len(answers)), [CODES.index(a) for _, a, _ in answers]] = [
        p for *_, p in answers
    ]
    table = pd.DataFrame(scores.astype(np.float32), columns=PROBABILITIES)
    table.insert(0, "id", [f"{label}/{i:02d}.tiff" for i, (label, *_) in enumerate(answers)])
    table.insert(1, "label", [label for label, *_ in answers])
    return table


class TestChoice:
    def test_right_answers_of_median_probability_come_first(self) -> None:
        sure = [0.99, 0.5, 0.7, 0.9, 0.8]
        table = _table([("EOS", "EOS", p) for p in sure] + [("EOS", "BAS", 0.8)])
        ranked = [sure[int(i[4:6])] for i in gallery.rank_cells(table)["EOS"]["id"]]
        assert ranked[0] == 0.8
        assert {*ranked[1:3]} == {0.7, 0.9}
        assert ranked[3:] == [0.99, 0.5]
        chosen = gallery.choose_cells(table)["id"]
        assert chosen.iloc[0] == "EOS/04.tiff"
        assert len(chosen) == gallery.CELLS

    def test_the_choice_is_the_same_whatever_the_order_of_the_table(self) -> None:
        table = _table([("MYO", "MYO", 0.9)] * 6)
        for seed in range(3):
            rows = gallery.choose_cells(table.sample(frac=1, random_state=seed))
            assert rows["id"].tolist() == ["MYO/02.tiff", "MYO/03.tiff"]

    def test_a_class_without_a_right_answer_has_its_wrong_ones(self) -> None:
        table = _table([("PMO", "MYO", 0.6), ("PMO", "MYB", 0.9), ("PMO", "MYO", 0.7)])
        chosen = gallery.choose_cells(table)["id"]
        assert chosen.iloc[0] == "PMO/02.tiff"
        assert len(chosen) == 2

    def test_classes_are_in_lineage_order_and_only_those_with_images(self) -> None:
        table = _table([("KSC", "KSC", 0.9), ("NGS", "KSC", 0.9), ("MYO", "MYO", 0.9)])
        assert list(gallery.rank_cells(table)) == ["MYO", "NGS", "KSC"]
        everything = _table([(code, code, 0.9) for code in CODES])
        assert tuple(gallery.rank_cells(everything)) == LINEAGE_ORDER


@pytest.fixture(scope="module")
def drawn(
    model, smear: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pd.DataFrame, Path]:
    """A model's answers to ten cells, and what was drawn of them."""
    from leuko_tf.explanation.drawing import draw_gallery
    from leuko_tf.explanation.explainer import Explainer

    files = [file for code in CODES[:5] for file in sorted((smear / code).iterdir())[:2]]
    images = {
        f"{file.parent.name}/{file.name}": np.asarray(Image.open(file).convert("RGB"))
        for file in files
    }
    scores = model.predict(np.stack([*images.values()]), verbose=0)
    table = pd.DataFrame(scores, columns=PROBABILITIES)
    table.insert(0, "id", [*images])
    table.insert(1, "label", [image_id[:3] for image_id in images])
    # One row is of another runtime, which gave another answer.
    table.loc[0, PROBABILITIES] = np.roll(scores[0], 1)
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "of_before.png").touch()
    draw_gallery(Explainer(model), table, images, folder)
    return table, folder


class TestPictures:
    def test_there_is_one_a_typical_cell_but_where_the_model_answers_otherwise(self, drawn) -> None:
        table, folder = drawn
        ids = {*gallery.choose_cells(table)["id"]}
        assert table["id"][0] in ids
        files = {to_picture_name(i) for i in ids - {table["id"][0]}}
        assert {f.name for f in folder.iterdir()} == files

    def test_panels_are_the_cell_its_map_and_the_cell_under_maps(self, drawn, smear: Path) -> None:
        table, folder = drawn
        for answers in gallery.read_gallery(table, folder).values():
            for answer in answers:
                with Image.open(answer.picture) as picture:
                    assert (picture.format, picture.size) == ("PNG", (640, 160))
                    assert len(picture.info[NOTE].split()) == 15
                    cell, gradient, overlay, cam = (
                        np.asarray(p, float) for p in split_panels(picture)
                    )
                with Image.open(smear / answer.id) as original:
                    small = original.convert("RGB").resize((160, 160), Image.Resampling.BOX)
                assert np.abs(cell - np.asarray(small, float)).mean() < 4
                assert np.abs(overlay - (0.45 * cell + 0.55 * gradient)).max() < 2
                assert np.abs(gradient - cell).mean() > 20
                assert np.abs(cam - overlay).mean() > 1

    def test_they_are_found_again_by_id_and_probabilities(self, drawn) -> None:
        table, folder = drawn
        found = gallery.read_gallery(table, folder)
        assert [*found] == [*gallery.rank_cells(table)]
        shown = [answer.picture.name for answers in found.values() for answer in answers]
        assert sorted(shown) == sorted(f.name for f in folder.iterdir())

    def test_of_another_networks_table_none_is_shown(self, drawn) -> None:
        """Even where it gives the same answers, a little more surely."""
        table, folder = drawn
        scores = table[PROBABILITIES].to_numpy() ** 1.1
        other = table.assign(
            **pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
        )
        assert not any(gallery.read_gallery(other, folder).values())

    def test_without_the_folder_every_class_is_empty(self, drawn, tmp_path: Path) -> None:
        table, _ = drawn
        found = gallery.read_gallery(table, tmp_path / "none")
        assert found == {code: [] for code in gallery.rank_cells(table)}
