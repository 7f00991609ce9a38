"""What is left in a folder of results."""

import numpy as np

from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.results import write_results


def test_all_figures_say_what_was_judged_and_that_the_films_are_drawn(tmp_path, drawn):
    competition = Competition(
        "toy", "toy", "drawn", "multiclass", ("a", "b"), "accuracy", Labelled("images", "folders")
    )
    targets = np.eye(2)[[0, 1, 1, 0]]
    write_results(tmp_path, competition, targets, targets, "test split", resamples=0)
    assert len(drawn) == 3
    for axes in drawn:
        assert axes.get_title(loc="left") == "toy, test split (4 images)"
        assert "drawn phantoms, not X-rays" in {text.get_text() for text in axes.texts}
