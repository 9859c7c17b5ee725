"""A service that knows nothing of Lighter: it reads a whole file from where that is kept, and answers with some of its rows."""

import sys
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, STORAGE = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the rows go out together.
    wbufsize = 1 << 16

    def do_GET(self):
        path, _, query = self.path.partition("?")
        name = path.split("/")[2].split("@")[0]
        column, least = urllib.parse.parse_qs(query)["where"][0].split(" > ")
        with urllib.request.urlopen(f"{STORAGE}/{name}.csv") as data:
            lines = data.read().splitlines(keepends=True)
        at = lines[0].split(b",").index(column.encode())
        rows = [line for line in lines[1:] if int(line.split(b",")[at]) > int(least)]
        body = lines[0] + b"".join(rows)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
