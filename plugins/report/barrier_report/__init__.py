"""What the trace files of a job say: who is late, what it costs, and what has failed."""

from barrier_report.make import Made, make_report
from barrier_report.model import Report
from barrier_report.read import NoTraceError

__all__ = ["Made", "NoTraceError", "Report", "make_report"]
