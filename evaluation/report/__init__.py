"""`report.html`: one file that needs no network, of what was measured, how sure one can be, and the mistakes."""

from evaluation.report.changes import changes_part
from evaluation.report.parts import Part
from evaluation.report.report import Load, thumbnail, worst_mistakes, write_report
from evaluation.report.study import study_parts

__all__ = ["Load", "Part", "changes_part", "study_parts", "thumbnail", "worst_mistakes", "write_report"]
