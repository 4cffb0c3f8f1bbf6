"""The routing study: synthetic sessions like those of a year of Chutes traffic, finite prefix caches,
and the policies of the published study beside the gateway's own code.
"""
