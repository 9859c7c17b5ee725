"""Calls of gRPC that stream both ways at once. Usage: grpc_streams.py serve PORT | call ADDRESS BYTES

The server sends back what comes. The client ends with SIGTERM, and with 0 when every call was answered once and whole."""

import concurrent.futures
import sys
import threading

import grpc

import messages

OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.default_authority", "reviews")]
METHOD = "/test.Streams/Both"
AT_ONCE = 2


class Streams(grpc.GenericRpcHandler):
    def __init__(self):
        self.names = messages.Names()

    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(self.both) if details.method == METHOD else None

    def both(self, requests, context):
        self.names.enter(dict(context.invocation_metadata())["x-name"])
        way = messages.Way()
        for message in requests:
            way.take(message)
            yield message
        context.set_trailing_metadata([("x-messages", str(way.messages)), ("x-sha256", way.sha256.hexdigest())])


def serve(port):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([Streams()])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(address, size):
    client = messages.Client()
    channel = grpc.insecure_channel(address, options=OPTIONS)
    both = channel.stream_stream(METHOD)

    def one_after_the_other():
        for name in client.names():
            made = (messages.make(name, number) for number in range(messages.count(size)))
            answers = both(made, metadata=[("x-name", name)])
            way = messages.Way()
            for message in answers:
                way.take(message)
            told = dict(answers.trailing_metadata())
            assert way.messages == messages.count(size), f"{name}: {way.messages} messages came back"
            assert way.is_all(int(told["x-messages"]), told["x-sha256"]), name
            client.carried(way.messages)

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as threads:
        for calling in [threads.submit(one_after_the_other) for _ in range(AT_ONCE)]:
            calling.result()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            serve(port)
        case ["call", address, size]:
            call(address, int(size))
