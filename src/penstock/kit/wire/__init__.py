"""HTTP/1.1 on asyncio transports: the same bytes over sockets and over the simulator's memory.

`http` is the data, `server` and `client` speak it by coroutines, `exchange` and `link` by callbacks,
`routes` picks handlers, `asgi` takes an app beside them, `sockets` and `tls` are the world.
"""
