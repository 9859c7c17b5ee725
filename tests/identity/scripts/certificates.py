"""A client of `lighter.identity.v1.Certificates` that knows nothing of Lighter's code: grpcio, and protobuf by hand.

    certificates.py sign ADDRESS BUNDLE CSR [--token TOKEN] [--with CERTIFICATE KEY]   writes one line of JSON
    certificates.py watch ADDRESS BUNDLE --with CERTIFICATE KEY                        one line for each bundle
"""

import base64
import json
import sys

import grpc


def fields(message):
    """(number, value) of each field: an integer or bytes."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2, key
            length = varint()
            yield key >> 3, message[at : at + length]
            at += length


def field(number, value):
    length, head = len(value), bytes([number << 3 | 2])
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    return head + bytes([length]) + value


def pem(der):
    return "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der).decode() + "-----END CERTIFICATE-----\n"


def bundle(message):
    found = list(fields(message))
    return {
        "trust_domain": b"".join(value for number, value in found if number == 1).decode(),
        "roots": "".join(pem(value) for number, value in found if number == 2),
        "count": sum(number == 2 for number, _ in found),
    }


def say(**facts):
    print(json.dumps(facts), flush=True)


what, address, roots, *rest = sys.argv[1:]
token, pair = "", (None, None)
if "--token" in rest:
    token = rest[rest.index("--token") + 1]
if "--with" in rest:
    at = rest.index("--with")
    pair = tuple(open(path, "rb").read() for path in (rest[at + 2], rest[at + 1]))
credentials = grpc.ssl_channel_credentials(open(roots, "rb").read(), *pair)
channel = grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)])
service = "/lighter.identity.v1.Certificates/"
try:
    if what == "watch":
        for answer in channel.unary_stream(service + "WatchBundle")(b""):
            say(ok=True, **bundle(answer))
    else:
        request = field(1, open(rest[0], "rb").read())
        if token:
            request += field(2, token.encode())
        answer = list(fields(channel.unary_unary(service + "Sign")(request, timeout=20)))
        chain = "".join(pem(value) for number, value in answer if number == 1)
        trusted = next(bundle(value) for number, value in answer if number == 2)
        end = next(value for number, value in answer if number == 3)
        say(ok=True, chain=chain, not_after=end, **trusted)
except grpc.RpcError as error:
    say(ok=False, code=error.code().name, message=error.details())
