"""A gRPC server of the four kinds of call, without generated code. Usage: grpc_server.py PORT MAX_CONCURRENT_STREAMS"""

import sys
import time
from concurrent import futures

import grpc


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-end", "whole"), ("x-request-id-seen", metadata.get("x-request-id", ""))))
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
    if request.startswith(b"sleep "):
        time.sleep(float(request.split()[1]))
    return request


def sum_up(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def echo(requests, context):
    yield from requests


# A stream that runs until its caller goes; /watched tells how many went.
gone = 0


def endless(request, context):
    global gone

    def ended():
        global gone
        gone += 1

    context.add_callback(ended)
    while context.is_active():
        yield b"more"
        time.sleep(0.01)


def watched(request, context):
    return str(gone).encode()


def main():
    port, streams = int(sys.argv[1]), int(sys.argv[2])
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "SumUp": grpc.stream_unary_rpc_method_handler(sum_up),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Watched": grpc.unary_unary_rpc_method_handler(watched),
    }
    server = grpc.server(
        futures.ThreadPoolExecutor(32), options=[("grpc.max_concurrent_streams", streams), ("grpc.so_reuseport", 0)]
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.All", handlers)])
    assert server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


main()
