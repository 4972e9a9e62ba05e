"""What a user may say of the report."""

import math

import pytest

from evaluation.options import ReportOptions


@pytest.mark.parametrize("name", ["images", "megabytes", "spectra"])
@pytest.mark.parametrize("value", [-1, math.nan])
def test_what_is_no_number_of_images_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"report\.{name} is {value}: it must be 0 or more"):
        ReportOptions(**{name: value})
    assert getattr(ReportOptions(**{name: 0}), name) == 0
