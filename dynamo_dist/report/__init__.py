"""Tables and figures of a finished run on one self-contained page."""

from dynamo_dist.report.page import page, sections, write_report

__all__ = ["page", "sections", "write_report"]
