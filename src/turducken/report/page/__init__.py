"""The report of a run as one page of HTML that needs nothing else: docs/report.md."""

from turducken.report.page.document import Extras, page
from turducken.report.page.gathering import Gathered

__all__ = ["Extras", "Gathered", "page"]
