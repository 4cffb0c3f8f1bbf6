"""The law of the market: pure functions over frozen dataclasses, integers only.

Nothing here reads a clock, a file, a socket or chance. Whoever runs these functions over the same
records gets the same bytes.
"""
