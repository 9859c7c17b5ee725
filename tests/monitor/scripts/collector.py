"""A collector of spans by OpenTelemetry's own messages: `collector.py PORT`. Prints each span as a line of JSON."""

import json
import sys
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services
from opentelemetry.proto.trace.v1 import trace_pb2 as trace


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


class Collector(services.TraceServiceServicer):
    def Export(self, request, context):
        for of in request.resource_spans:
            resource = plain(of.resource.attributes)
            for scope in of.scope_spans:
                for span in scope.spans:
                    print(json.dumps({
                        "resource": resource,
                        "scope": scope.scope.name,
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "name": span.name,
                        "kind": trace.Span.SpanKind.Name(span.kind),
                        "status": trace.Status.StatusCode.Name(span.status.code),
                        "nanos": span.end_time_unix_nano - span.start_time_unix_nano,
                        "start": span.start_time_unix_nano,
                        "attributes": plain(span.attributes),
                    }), flush=True)
        return service.ExportTraceServiceResponse()


# One thread: the lines of two would mix.
server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
services.add_TraceServiceServicer_to_server(Collector(), server)
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
print("ready", flush=True)
server.wait_for_termination()
