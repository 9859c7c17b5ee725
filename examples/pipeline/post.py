"""Post-processing: has orders chosen and scored by two other services, and reports those that are worth a look.

    python3 post.py PORT http://PRE http://INFER

It calls the others where it is told they are, which is where its sidecar listens. It knows of no other places.
"""

import json
import sys
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, PRE, INFER = int(sys.argv[1]), sys.argv[2], sys.argv[3]

SCAN = "/scan/orders@7?" + urllib.parse.urlencode({"where": "amount > 300", "select": "id,country,amount"})


def call(url, body=None):
    with urllib.request.urlopen(urllib.request.Request(url, data=body)) as answer:
        return answer.read()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self):
        scores = json.loads(call(INFER + "/infer", call(PRE + SCAN)))
        report = {"scored": len(scores), "worth_a_look": sorted(id for id, score in scores.items() if score > 0.99)}
        body = json.dumps(report).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
