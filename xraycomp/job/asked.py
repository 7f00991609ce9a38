"""The images that a competition asks a submission for, as far as they are known here."""

import logging

from xraycomp.console.errors import UserError
from xraycomp.data.files import read_table
from xraycomp.data.source import open_source
from xraycomp.data.submission import expected_ids
from xraycomp.model.run import RunFolder

log = logging.getLogger(__name__)


def run_ids(run: RunFolder) -> list[str]:
    """The ids that a submission must hold, from the competition's files if they are here, else from
    the run's own submission.

    Raises ``UserError`` where neither is here.
    """
    trained, competition = run.config(), run.competition()
    try:
        source = open_source(competition, trained.data, trained.data_dir)
    except UserError:
        own = run.path / "submission.csv"
        if competition.submission is None or not own.is_file():
            raise
        log.info(
            "The files of %s are not here: checking against the ids of %s, which was checked "
            "against them where it was made.",
            competition.slug,
            own,
        )
        return list(read_table(own)[competition.submission.id_column])
    return expected_ids(competition, source.root)
