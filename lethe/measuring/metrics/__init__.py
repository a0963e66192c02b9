"""Metrics: a module a family. What it measures, on which pictures, and how its column of the tables is called stands in
its literal METRICS; what else a module holds says `lethe.measuring.scoring`.
"""
