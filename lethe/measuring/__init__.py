"""Pictures -> a table of scores and metrics with intervals; the networks that measure; any checkpoint measured alone.

May import `training` and what is below it. Plug-ins: `metrics/` (see there) and `detectors/` (see `detections`).
"""
