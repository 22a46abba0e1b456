"""The report: tables, curves, the before/after sheet and the page, from the scores and images on disk."""
