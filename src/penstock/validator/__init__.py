"""The validator: where miners are judged.

It asks like a user, keeps what lies, reads the public log, and reports scores that anybody who
reads the same log must get as well. Its probes are evidence only once they are in the log.
"""
