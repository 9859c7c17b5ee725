"""Inference: scores orders by a small model. It keeps nothing, so that any replica will do.

    python3 infer.py PORT [MILLISECONDS]

MILLISECONDS stand for a larger model: a replica with a fast processor takes few, one without takes many.
"""

import csv
import io
import json
import math
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(sys.argv[1])
SECONDS = float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0

# A logistic regression: what each counts.
PER_UNIT, PER_LETTER, BIAS = 0.02, -0.3, -3.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_POST(self):
        orders = csv.DictReader(io.StringIO(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        time.sleep(SECONDS)
        scores = {}
        for order in orders:
            z = BIAS + PER_UNIT * float(order["amount"]) + PER_LETTER * len(order["country"])
            scores[order["id"]] = round(1 / (1 + math.exp(-z)), 4)
        body = json.dumps(scores).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
