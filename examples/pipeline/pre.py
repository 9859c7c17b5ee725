"""Pre-processing: answers with the orders above an amount. It reads all of them for each request, as it has no index.

    python3 pre.py PORT ORDERS.csv
"""

import csv
import io
import re
import sys
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, ORDERS = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        least = float(re.fullmatch(r"amount > (.+)", query["where"][0])[1])
        columns = query["select"][0].split(",")
        out = io.StringIO()
        rows = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
        rows.writeheader()
        with open(ORDERS, newline="") as file:
            rows.writerows(row for row in csv.DictReader(file) if row["amount"] and float(row["amount"]) > least)
        body = out.getvalue().encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/csv")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
