"""What a reader of YAML 1.1, which kubectl is, makes of manifests before, with and after sidecars.

manifests.py ORIGINAL INJECTED UNDONE PATCHES: checks each resource against the Kubernetes schemas, that nothing is left of
what was undone, and that the JSON patches make the second file of the first. Writes the second as JSON.
"""

import json
import sys

import kubernetes_validate
import yaml

# The oldest that has all that an injected pod needs, and the newest that is known.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]


def load(path):
    with open(path) as file:
        return [document for document in yaml.safe_load_all(file) if document is not None]


def resources(document):
    return document["items"] if document["kind"] == "List" else [document]


def validate(documents):
    for resource in (one for document in documents for one in resources(document)):
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


def patched(document, patch):
    document = json.loads(json.dumps(document))
    for step in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place = document
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            last = int(last)
        if step["op"] == "add" and isinstance(place, list):
            place.insert(last, step["value"])
        elif step["op"] in ("add", "replace"):
            place[last] = step["value"]
        else:
            del place[last]
    return document


original, injected, undone = map(load, sys.argv[1:4])
with open(sys.argv[4]) as file:
    patches = [json.loads(line) for line in file]
validate(original)
validate(injected)
assert undone == original, (undone, original)
assert [patched(*pair) for pair in zip(original, patches, strict=True)] == injected
json.dump(injected, sys.stdout)
