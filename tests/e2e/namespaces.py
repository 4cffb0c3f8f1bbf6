"""A machine behind NAT, as a network namespace: it reaches us over a link of its own, and nothing
listens in it that we could reach. Needs root and `ip` (iproute2); whoever has not skips.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Set aside for tests of networks (RFC 2544); a /30 of it for each process that tests.
NETWORK = "198.18"
NOBODY = "02:00:00:00:00:99"


class NoNamespaces(Exception):
    """This machine lets us make none; the reason is its text."""


@dataclass(frozen=True)
class Namespace:
    """One namespace and the link to it. `here` is our address on the link, `there` its own."""

    name: str
    link: str
    here: str
    there: str

    def argv(self, *command: str) -> list[str]:
        """How a command runs inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def unplug(self) -> None:
        """The cable is out: both ends see it."""
        ip("link", "set", self.link, "down")

    def plug(self) -> None:
        ip("link", "set", self.link, "up")

    def swallow(self) -> None:
        """Nothing passes any more, either way, and neither end sees a reason."""
        ip("neigh", "replace", self.there, "lladdr", NOBODY, "dev", self.link, "nud", "permanent")
        ip(
            *("-n", self.name, "neigh", "replace", self.here, "lladdr", NOBODY),
            *("dev", "out", "nud", "permanent"),
        )

    def release(self) -> None:
        """All passes again."""
        ip("neigh", "del", self.there, "dev", self.link)
        ip("-n", self.name, "neigh", "del", self.here, "dev", "out")

    def listeners(self) -> list[str]:
        """Addresses on which something listens inside, as /proc spells them."""
        lines = []
        for table in ("tcp", "tcp6"):
            done = subprocess.run(
                self.argv("cat", f"/proc/net/{table}"), capture_output=True, text=True, check=True
            )
            lines += [line.split() for line in done.stdout.splitlines()[1:]]
        return [fields[1].partition(":")[0] for fields in lines if fields[3] == "0A"]


def ip(*arguments: str) -> None:
    """Run `ip`. Raises NoNamespaces with its complaint."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A fresh one. Raises NoNamespaces."""
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no `ip` command (Debian: iproute2)")
    number = os.getpid() % 16_384
    prefix = f"{NETWORK}.{number // 64}.{4 * (number % 64)}".rpartition(".")
    base, last = prefix[0], int(prefix[2])
    made = Namespace(
        name=f"penstock-{os.getpid()}",
        link=f"ps{os.getpid()}"[:15],
        here=f"{base}.{last + 1}",
        there=f"{base}.{last + 2}",
    )
    ip("netns", "add", made.name)
    try:
        ip("link", "add", made.link, "type", "veth", "peer", "name", "out", "netns", made.name)
        ip("addr", "add", f"{made.here}/30", "dev", made.link)
        ip("link", "set", made.link, "up")
        ip("-n", made.name, "addr", "add", f"{made.there}/30", "dev", "out")
        ip("-n", made.name, "link", "set", "out", "up")
        ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        ip("netns", "del", made.name)


@contextmanager
def inside(made: Namespace, command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the namespace; it is ended, and killed when it does not end."""
    with (
        log.open("ab") as said,
        subprocess.Popen(made.argv(*command), stdout=said, stderr=said) as child,
    ):
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(40)
            except subprocess.TimeoutExpired:
                child.kill()
