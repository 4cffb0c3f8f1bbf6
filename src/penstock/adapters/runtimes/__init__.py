"""Runtimes: where engines run. `process` is the default; each file implements `kit.runtime.Runtime`."""
