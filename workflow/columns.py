"""What a predictions table says of its images besides scores: pairs, and facts of the files for the audit."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.datamodule import FeatureDataModule
from datamodules.facts import Facts

if TYPE_CHECKING:
    import pandas as pd


def with_columns(
    table: "pd.DataFrame",
    data: FeatureDataModule,
    similarities: Mapping[tuple[str, str], float] | None = None,
    facts: bool = True,
) -> "pd.DataFrame":
    """The rows with the columns `pair`, `pair_similarity`, `generated_fraction` and `fact_*`, those of them that any row has a value of.

    Args:
        table: Rows of the predictions table of one data set and perturbation.
        data: What was scored.
        similarities: By a fake's data set and key how similar the real image of its pair is to it (see
            `workflow.embeddings.pair_similarities`).
        facts: Whether there are to be columns of facts, where the audit is wanted at all.
    """
    keys = set(table["key"])
    records = [record for record in data.records() if record.key in keys]
    known = similarities or {}
    columns: dict[str, dict[str, float | str]] = {
        "pair": {record.key: record.pair for record in records if record.pair},
        "pair_similarity": {each.key: known[each.dataset, each.key] for each in records if (each.dataset, each.key) in known},
    }
    shares = {record.key: record.generated_fraction for record in records if record.generated_fraction is not None}
    columns["generated_fraction"] = dict(shares)
    if facts and data.audit:
        for key, told in Facts(Path(data.cache_dir)).of(records, data.perturbation).items():
            for name, value in told.items():
                columns.setdefault(name, {})[key] = value
    return table.assign(**{name: table["key"].map(found) for name, found in columns.items() if found})
