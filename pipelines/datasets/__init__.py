"""Public benchmarks of text-to-video retrieval: their annotation files become the records that shards are written from.

``catalogue`` names the data sets and layouts, one file a layout reads it, ``importing`` makes records out of what was
read, ``consistency`` counts them against what was published.
"""
