"""The engine of the runtimes' tests: `python -I -S runtime_program.py MODE [PORT]`. Standard library only.

| mode | does |
|---|---|
| serve | answers on PORT what it was given, until it is ended |
| announce | the same on a port of its own, which it says |
| refuse | says that it will not serve |
| mute | never says anything |
| die | writes `last words` and ends with status 3 |
| stubborn | as serve, and ignores SIGTERM |
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOST = os.environ.get("PENSTOCK_HOST", "127.0.0.1")
GIVEN = {"stdin": sys.stdin.read(), "argv": sys.argv[1:], "env": dict(os.environ)}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(GIVEN).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(port: int, *, announces: bool) -> None:
    server = ThreadingHTTPServer((HOST, port), Handler)
    if announces:
        sys.stdout.write("some line before\n")
        line = {"address": f"http://127.0.0.1:{server.server_port}", "error": ""}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    server.serve_forever()


def main(mode: str, port: int) -> None:
    sys.stderr.write(f"mode {mode}\n")
    if mode == "die":
        sys.stderr.write("last words\n")
        sys.exit(3)
    elif mode == "refuse":
        print(json.dumps({"address": "", "error": "the model is broken"}), flush=True)
        sys.exit(1)
    elif mode == "mute":
        time.sleep(3600)
    elif mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        # As the first process of a container it would be deaf without a handler.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve(port, announces=mode in {"announce", "stubborn"})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
