"""An ADS server (xDS v3, state of the world, gRPC profile) that shares nothing with Lighter: the messages are those of
xds-protos, the transport is grpcio. Usage: ads_server.py PORT WORLD

WORLD is a JSON file, looked at all the time:

    {"listeners": {NAME: ROUTES}, "routes": {NAME: [{"prefix": TEXT, "clusters": {NAME: WEIGHT}}]},
     "clusters": {NAME: TYPE}, "endpoints": {NAME: [[[ADDRESS, PORT, WEIGHT, HEALTH], ...] for each priority]},
     "services": {NAMESPACE/NAME: [V4, V6, PORT]}, "mute": [NAME OF AN ADDRESS, ...], "unknown": [KIND, ...]}

Services are Lighter's own resources, with the addresses that follow from them; of what is mute it never speaks. In messages
of the kinds `cluster` and `workload` that are unknown, what decides who may talk has a field that no version knows.

It says on standard output, one line each: `asked KIND NAMES`, `sent KIND VERSION NAMES`, `accepted KIND VERSION`,
`refused KIND VERSION REASON`, `left`, and `version VERSION` where WORLD says something else.
"""

import json
import queue
import sys
import threading
import time
from concurrent import futures

import grpc
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import config_source_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import api_listener_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from google.protobuf import any_pb2

URL = "type.googleapis.com/envoy.config."
LISTENER = URL + "listener.v3.Listener"
ROUTE = URL + "route.v3.RouteConfiguration"
CLUSTER = URL + "cluster.v3.Cluster"
ENDPOINTS = URL + "endpoint.v3.ClusterLoadAssignment"
OWN = "type.googleapis.com/lighter.config.v1."
WORKLOAD, SERVICE, ADDRESS = OWN + "Workload", OWN + "Service", OWN + "Address"
# In the order in which nothing is named before it was told of.
KINDS = {
    WORKLOAD: "workload",
    CLUSTER: "cluster",
    ENDPOINTS: "endpoints",
    LISTENER: "listener",
    ROUTE: "route",
    SERVICE: "service",
    ADDRESS: "address",
}
# Field 2003, a number.
UNKNOWN = b"\x98\x7d\x01"
WHOLE = (CLUSTER, LISTENER, SERVICE, WORKLOAD)


def say(*words):
    print(*words, flush=True)


def ads():
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )


def packed(message):
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def listener(name, routes):
    manager = http_connection_manager_pb2.HttpConnectionManager(
        rds=http_connection_manager_pb2.Rds(config_source=ads(), route_config_name=routes)
    )
    manager.http_filters.add(name="router").typed_config.Pack(router_pb2.Router())
    return listener_pb2.Listener(
        name=name, api_listener=api_listener_pb2.ApiListener(api_listener=packed(manager))
    )


def route(name, rules):
    config = route_pb2.RouteConfiguration(name=name)
    host = config.virtual_hosts.add(name="all", domains=["*"])
    for rule in rules:
        route = host.routes.add()
        route.match.prefix = rule["prefix"]
        for cluster, weight in rule["clusters"].items():
            share = route.route.weighted_clusters.clusters.add(name=cluster)
            share.weight.value = weight
    return config


def cluster(name, kind):
    cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.DiscoveryType.Value(kind))
    cluster.eds_cluster_config.eds_config.CopyFrom(ads())
    return cluster


def with_unknown(make):
    def cluster(name, kind):
        cluster = make(name, kind)
        cluster.transport_socket.name = "envoy.transport_sockets.raw_buffer"
        cluster.transport_socket.typed_config.Pack(raw_buffer_pb2.RawBuffer())
        cluster.transport_socket.MergeFromString(UNKNOWN)
        return cluster

    return cluster


def endpoints(name, priorities):
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for priority, members in enumerate(priorities):
        locality = assignment.endpoints.add(priority=priority)
        locality.locality.region = f"region-{priority}"
        locality.load_balancing_weight.value = 1
        for address, port, weight, health in members:
            member = locality.lb_endpoints.add(health_status=health_check_pb2.HealthStatus.Value(health))
            member.load_balancing_weight.value = weight
            member.endpoint.address.socket_address.address = address
            member.endpoint.address.socket_address.port_value = port
    return assignment


def encoded(*fields):
    """A protobuf message of fields from 1, without generated code: text, numbers, messages; None is left out."""
    message = b""
    for number, value in enumerate(fields, 1):
        if value is None:
            continue
        if isinstance(value, int):
            message += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            message += varint(number << 3 | 2) + varint(len(value)) + value
    return message


def varint(value):
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def service(name, said):
    v4, v6, port = said
    backend = encoded(name, port, 1)
    policy = encoded(5000, None, None, 60000, 16, 3, 10000, 50, 1)
    main = encoded(port, "main", "http", port, backend, "default", policy)
    return encoded(name, v4, v6, main)


def address(key, services):
    """Always an answer: it may be that the key means nothing."""
    for name, (v4, v6, port) in services.items():
        if key == f"dns:{name}":
            return encoded(key, name, None, v4, v6)
        if key in (f"{v4}:{port}", f"[{v6}]:{port}"):
            return encoded(key, name, port, v4, v6)
    return encoded(key)


def own(url, names, said):
    services = said.get("services", {})
    if url == SERVICE:
        made = {name: service(name, services[name]) for name in names if name in services}
    elif url == ADDRESS:
        made = {name: address(name, services) for name in names if name not in said.get("mute", [])}
    else:
        port = encoded(None, "permissive") + (UNKNOWN if "workload" in said.get("unknown", []) else b"")
        made = {name: encoded(name, "mesh.lighter", "registryOnly", port) for name in names}
    return {name: any_pb2.Any(type_url=url, value=message) for name, message in made.items()}


MAKE = {
    LISTENER: ("listeners", listener),
    ROUTE: ("routes", route),
    CLUSTER: ("clusters", cluster),
    ENDPOINTS: ("endpoints", endpoints),
}


class World:
    """What the file says, and who wants to know when it says something else."""

    def __init__(self, path):
        self.path = path
        self.lock = threading.Lock()
        self.waiting = set()
        self.version = 0
        self.text = self.read()
        self.said = json.loads(self.text)

    def read(self):
        with open(self.path) as file:
            return file.read()

    def watch(self):
        while True:
            time.sleep(0.01)
            text = self.read()
            if text == self.text:
                continue
            with self.lock:
                self.text, self.said = text, json.loads(text)
                self.version += 1
                say("version", self.version)
                for waiting in self.waiting:
                    waiting.put("changed")

    def resources(self, url, names):
        with self.lock:
            if url not in MAKE:
                return str(self.version), own(url, sorted(names), self.said)
            field, make = MAKE[url]
            if KINDS[url] in self.said.get("unknown", []):
                make = with_unknown(make)
            said = self.said.get(field, {})
            made = {name: packed(make(name, said[name])) for name in sorted(names) if name in said}
            return str(self.version), made


class Subscription:
    def __init__(self):
        self.names = None
        self.nonce = 0
        self.version = ""
        self.told = {}


class Discovery(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    def __init__(self, world):
        self.world = world

    def StreamAggregatedResources(self, requests, context):
        events = queue.Queue()

        def receive():
            try:
                for request in requests:
                    events.put(request)
            except grpc.RpcError:
                pass
            events.put("ended")

        threading.Thread(target=receive, daemon=True).start()
        with self.world.lock:
            self.world.waiting.add(events)
        try:
            yield from self.answer(events)
        finally:
            with self.world.lock:
                self.world.waiting.discard(events)
            say("left")

    def answer(self, events):
        subscriptions = {}
        while True:
            event = events.get()
            if event == "ended":
                return
            if event == "changed":
                for url in [url for url in KINDS if url in subscriptions]:
                    yield from self.news(url, subscriptions[url], False)
                continue
            url = event.type_url
            if url not in KINDS:
                say("unknown", url)
                continue
            subscription = subscriptions.setdefault(url, Subscription())
            if subscription.nonce and event.response_nonce != str(subscription.nonce):
                continue
            if event.response_nonce:
                if event.HasField("error_detail"):
                    say("refused", KINDS[url], subscription.version, event.error_detail.message)
                else:
                    say("accepted", KINDS[url], event.version_info)
            names = set(event.resource_names)
            if names != subscription.names:
                say("asked", KINDS[url], ",".join(sorted(names)))
                subscription.names = names
                for gone in set(subscription.told) - names:
                    del subscription.told[gone]
                yield from self.news(url, subscription, True)

    def news(self, url, subscription, must):
        version, now = self.world.resources(url, subscription.names)
        news = {name: made for name, made in now.items() if subscription.told.get(name) != made}
        if not must and now == subscription.told:
            return
        subscription.told = now
        subscription.nonce += 1
        subscription.version = version
        sent = now if url in WHOLE else news
        say("sent", KINDS[url], version, ",".join(sent))
        yield discovery_pb2.DiscoveryResponse(
            version_info=version, resources=sent.values(), type_url=url, nonce=str(subscription.nonce)
        )


def main():
    port, path = int(sys.argv[1]), sys.argv[2]
    world = World(path)
    threading.Thread(target=world.watch, daemon=True).start()
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Discovery(world), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    say("ready")
    server.wait_for_termination()


main()
