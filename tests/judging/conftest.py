"""What the tests of judgements share: a competition to be judged for, figures, no warnings."""

import warnings

import pytest
from matplotlib.figure import Figure

from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.metrics import judge


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def judged():
    """Judge predictions of these classes; ``fields`` are the competition's."""

    def _judged(targets, probs, classes, *, resamples=50, thresholds=None, **fields):
        fields = {"task": "multiclass", "metric": "accuracy"} | fields
        train = Labelled("images", "labels.csv")
        competition = Competition(
            "toy", "toy", "dataset", classes=tuple(classes), train=train, **fields
        )
        return judge(
            competition, targets, probs, "a split", thresholds=thresholds, resamples=resamples
        )

    return _judged


@pytest.fixture
def findings(judged):
    """The same, of findings of which an image may have several."""

    def _findings(targets, probs, classes, **options):
        return judged(
            targets, probs, classes, **{"task": "multilabel", "metric": "auroc"} | options
        )

    return _findings


@pytest.fixture
def drawn(monkeypatch):
    """The axes of each figure that is written to a file."""
    axes, save = [], Figure.savefig

    def keep(figure, *args, **options):
        axes.append(figure.axes[0])
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return axes
