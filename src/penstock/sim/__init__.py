"""The whole market in one process on virtual time: loop, network, people, adversaries, checks."""
