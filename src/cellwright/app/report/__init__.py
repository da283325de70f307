"""The report: one HTML file that needs nothing else."""

from cellwright.app.report.page import write_report

__all__ = ["write_report"]
