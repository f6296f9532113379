"""The search service: one web application over a ``Searcher``, and Ray Serve around it.

``limits`` what a request may cost · ``errors`` what a client is told · ``requests`` bodies · ``batching`` many queries
as one search · ``service`` what the routes need · ``app`` search, health, metrics and the page · ``media`` videos,
stills and kept patches · ``metrics`` · ``deployment`` Ray Serve. ``static`` holds the page.
"""
