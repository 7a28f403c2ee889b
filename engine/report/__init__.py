"""A run as one HTML page: `engine.report.page.write_report`."""
