"""`report.html`: one file that needs no network, of what was measured, how sure one can be, and the images."""

from evaluation.report.browser import Browser, browser
from evaluation.report.changes import changes_part
from evaluation.report.mistakes import Load, Pixels, thumbnail, worst_mistakes
from evaluation.report.parts import Part
from evaluation.report.published import published_part
from evaluation.report.report import write_report
from evaluation.report.study import study_parts

__all__ = [
    "Browser",
    "Load",
    "Part",
    "Pixels",
    "browser",
    "changes_part",
    "published_part",
    "study_parts",
    "thumbnail",
    "worst_mistakes",
    "write_report",
]
