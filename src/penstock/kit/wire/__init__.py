"""HTTP/1.1 on asyncio transports: the same bytes over sockets and over the simulator's memory.

`http` is the data, `server` and `client` speak it, `routes` picks handlers, `sockets` is the world.
"""
