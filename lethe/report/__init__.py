"""The report of an experiment: tables with intervals, picture grids, curves, the verdict on each claim, one page."""
