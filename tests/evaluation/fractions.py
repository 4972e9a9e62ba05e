"""Made-up predictions with generated fractions."""

import numpy as np
import pandas as pd

from evaluation.predictions import make_table
from tests.evaluation.rows import some_rows

FRACTIONS = (0.1, 0.5, 1.0)


def partly_generated(photographs=24, fractions=FRACTIONS, **fixed) -> pd.DataFrame:
    """A real image of each photograph, and a fake of each fraction, whose score rises with it; photographs are groups."""
    rng = np.random.default_rng(5)
    rows = []
    for i in range(photographs):
        of_photo = rng.normal(0, 0.3)
        for fraction in (0.0, *fractions):
            row = some_rows("faces", "inpaint" if fraction else "photos", int(fraction > 0), 1, **fixed)[0]
            score = of_photo + 1.5 * fraction + rng.normal(0, 0.2)
            rows.append(row | {"key": f"{i}-{fraction}", "group": f"photo {i}", "score": score, "generated_fraction": fraction})
    return make_table(rows)
