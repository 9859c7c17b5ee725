"""gRPC servers that say who they are: `backends.py NAME=PORT…`, all on loopback."""

import sys
from concurrent import futures

import grpc

servers = []
for argument in sys.argv[1:]:
    name, port = argument.split("=")
    server = grpc.server(futures.ThreadPoolExecutor(4))
    method = grpc.unary_unary_rpc_method_handler(lambda request, context, name=name: name.encode())
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Who", {"Are": method, "Were": method})])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == int(port)
    server.start()
    servers.append(server)
print("ready", flush=True)
servers[0].wait_for_termination()
