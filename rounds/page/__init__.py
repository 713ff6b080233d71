"""The page of a run, report.html: what is gathered, how it is drawn, how it is written."""
