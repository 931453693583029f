"""Tables and figures of what a folder holds: one self-contained page, and files for papers."""

from dynamo_dist.report.claims import Verdict, verdicts, write_claims
from dynamo_dist.report.contents import contents
from dynamo_dist.report.page import page, write_report

__all__ = ["Verdict", "contents", "page", "verdicts", "write_claims", "write_report"]
