"""Connections that rest between exchanges, by where they lead."""

import asyncio

from penstock.kit.wire.link import Link, LinkKey


class Pool:
    """Last in, first out: what is not needed goes stale at the bottom. The `Home` of links."""

    def __init__(self, *, idle_max: int, idle_total_max: int, idle_ms: int) -> None:
        self._idle_max = idle_max  # per key
        self._idle_total_max = idle_total_max
        self._idle_ms = idle_ms
        self._links: dict[LinkKey, list[Link]] = {}
        self._total = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def __len__(self) -> int:
        return self._total

    def take(self, key: LinkKey) -> Link | None:
        """The link that rested the shortest, if one is fit to use."""
        links = self._links.get(key)
        if not links:
            return None
        oldest_at = self._now() - self._idle_ms / 1000
        while links:
            link = links.pop()
            self._total -= 1
            link.resting = False
            if link.alive and link.idle_since >= oldest_at:
                return link
            link.abort()
        return None

    def put(self, link: Link) -> None:
        """Keep a link, or close it when there are enough."""
        links = self._links.get(link.key)
        if links is None:
            links = self._links[link.key] = []
        if self._closed or len(links) >= self._idle_max or self._total >= self._idle_total_max:
            link.close()
            return
        link.idle_since = self._now()
        link.resting = True
        links.append(link)
        self._total += 1

    def forget(self, link: Link) -> None:
        """A resting link was closed by its server."""
        link.resting = False
        links = self._links.get(link.key)
        if links is not None and link in links:
            links.remove(link)
            self._total -= 1
            if not links:
                del self._links[link.key]

    def close(self) -> None:
        """Drop what rests; nothing is kept any more."""
        self._closed = True
        resting = [link for links in self._links.values() for link in links]
        self._links.clear()
        self._total = 0
        for link in resting:
            link.resting = False
            link.abort()

    def _now(self) -> float:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()
