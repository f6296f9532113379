"""Data in, vectors out: annotations, shards, manifests, decoding, streams, corpora and their search."""

import os

# What a killed driver had asked of a cluster, Ray Data keeps from the next one until it expires: 180 s unless told.
# It is asked for again every 10 s, and Ray Data looks at this variable when it is imported.
STREAM_ENV = {"RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "30"}
"""Environment of processes that execute a Ray Data stream."""

for _name, _value in STREAM_ENV.items():
    os.environ.setdefault(_name, _value)
