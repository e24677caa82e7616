"""What the API says about itself: its OpenAPI document, `/docs`, and a page for each problem.

The table of calls (`operations`) and that of problems (`order_api.http.problems`) are what all of it is made from. Only
the composition root imports it.
"""
