"""Firebreak's config for the benchmark: the sidecar's own binary, listening for one service."""

import json

from machine import TARGET

# All that `firebreak demo` shows, for every service of the benchmark. A policy that joins the demo joins it here, and what is
# nearest to it at the peers joins peers.py.
POLICY = {
    "timeouts": {"connect": "1s", "attempt": "1s", "request": "3s"},
    "retries": {
        "maxRetries": 3,
        "conditions": ["5xx", "connect-failure"],
        "methods": "All",
        "budget": {"percent": 100, "minPerSecond": 1000},
    },
    "bulkhead": {"maxConnections": 1000, "maxRequests": 1000, "maxPending": 100, "maxPendingTime": "1s"},
}

ADMIN = 15020


def command(work, setup, binary=TARGET / "firebreak-proxy"):
    """Writes the config and returns what is to be run."""
    publish(work, setup, 0)
    workers = ["--workers", str(setup.workers)]
    return [binary, "run", "--config-dir", work, "--labels-file", work / "labels", "--log", "warn", *workers]


def publish(work, setup, revision):
    """Writes a config and puts it in place."""
    put_in_place(work, write(work, setup, revision))
    if revision == 0:
        (work / "config.json").symlink_to("..data/config.json")


def write(work, setup, revision):
    """Writes a config into a folder of its own."""
    folder = work / f"..{revision}"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document(setup, revision)))
    return folder


def put_in_place(work, folder):
    """Puts a config in place as the kubelet does: by a symlink that is renamed over the last."""
    link = work / "..data_tmp"
    link.symlink_to(folder.name)
    link.rename(work / "..data")


def document(setup, revision):
    """The service that is called and as many others as wanted, each with a policy of its own that changes with the revision."""
    endpoint = {"address": f"127.0.0.1:{setup.origin}"}
    protocol = "Tcp" if setup.protocol == "tcp" else "Http"
    entries = [service("origin", listen=[f"127.0.0.1:{setup.port}"], endpoints=[endpoint], protocol=protocol)]
    for number in range(1, setup.services):
        entries.append(service(f"other-{number}", addresses=[f"10.1.{number // 250}.{number % 250 + 1}"]))
    policy = {**POLICY, "timeouts": {**POLICY["timeouts"], "request": f"{3000 + revision % 2}ms"}}
    names = [entry["name"] for entry in entries]
    entries += [{"kind": "TrafficPolicy", "name": name, "generation": revision, "body": policy} for name in names]
    return {"format": 1, "namespace": "bench", "entries": entries}


def service(name, addresses=(), protocol="Http", **port):
    port = {"port": 80, "protocol": protocol, "policies": [f"bench/{name}"], **port}
    return {"kind": "Service", "name": f"bench/{name}", "body": {"addresses": list(addresses), "ports": [port]}}
