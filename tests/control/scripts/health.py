"""A gRPC server that serves `shop.Catalog` while a file is there: `health.py PORT FILE`, on loopback."""

import os
import sys
from concurrent import futures

import grpc

port, flag = sys.argv[1:]


def check(request, context):
    # HealthCheckRequest{service} and HealthCheckResponse{status}, as bytes.
    if request != b"\x0a\x0cshop.Catalog":
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return b"\x08\x01" if os.path.exists(flag) else b"\x08\x02"


server = grpc.server(futures.ThreadPoolExecutor(4))
method = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})])
assert server.add_insecure_port(f"127.0.0.1:{port}") == int(port)
server.start()
print("ready", flush=True)
server.wait_for_termination()
