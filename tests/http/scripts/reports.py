"""Three gRPC servers that report their load in trailers, and a client that reaches them through a sidecar.

Usage: reports.py UTILIZATION UTILIZATION UTILIZATION. Says where the servers listen, reads the sidecar's address, then obeys
lines: each is a number of calls, and is answered with how many of them each server had."""

import sys
from concurrent import futures

import grpc
from xds.data.orca.v3 import orca_load_report_pb2 as orca

FIELD = "endpoint-load-metrics-bin"


def serve(utilization):
    report = orca.OrcaLoadReport(application_utilization=utilization, rps_fractional=100).SerializeToString()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    port = server.add_insecure_port("127.0.0.1:0")

    def answer(request, context):
        context.set_trailing_metadata(((FIELD, report), ("x-end", "whole")))
        return str(port).encode()

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", {"Buy": handler}),))
    server.start()
    return port, server


servers = [serve(float(word)) for word in sys.argv[1:]]
print(*(port for port, _ in servers), flush=True)
channel = grpc.insecure_channel(sys.stdin.readline().strip())
buy = channel.unary_unary("/shop.Shop/Buy")
for line in sys.stdin:
    counts = {port: 0 for port, _ in servers}
    for _ in range(int(line)):
        answer, call = buy.with_call(b"", timeout=10)
        trailers = dict(call.trailing_metadata())
        assert trailers["x-end"] == "whole" and FIELD not in trailers, trailers
        counts[int(answer)] += 1
    print(*counts.values(), flush=True)
