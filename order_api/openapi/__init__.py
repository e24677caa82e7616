"""What the API says about itself: how a route is declared, the OpenAPI document, `/docs`, and a page for each problem.

It knows no order: the routes bring their declarations along, and `order_api.description` gathers them.
"""
