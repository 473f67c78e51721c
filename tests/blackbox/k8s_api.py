# SPDX-License-Identifier: Apache-2.0
"""A scripted Kubernetes API server: lists in pages, watches from a version on, and misbehaves as it is told."""
import base64
import copy
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


def slice_of(name, endpoints, port=8000, service="vllm", family="IPv4", ports=None):
    return {
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "addressType": family,
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}] if ports is None else ports,
        "endpoints": endpoints,
    }


def endpoint_of(ip, uid=None, ready=True, terminating=False):
    return {
        "addresses": [ip],
        "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": "default", "name": f"pod-{uid or ip}", "uid": uid or f"uid-{ip}"},
    }


def pod_of(uid, labels=None, annotations=None):
    return {"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": f"pod-{uid}", "namespace": "default", "uid": uid, "labels": labels or {}, "annotations": annotations or {}}}


def status_of(code, reason):
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": f"scripted: {reason}", "reason": reason, "code": code}


class Collection:
    def __init__(self):
        self.objects, self.events, self.oldest = {}, [], 0


class Api:
    """
    Its knobs: split (bytes a write; 0: all at once), refuse (status for every request), page (objects a page at most),
    garbage (bytes that every watch gets once, while they are set), bookmarks, gone_pages (continue tokens that answer 410),
    tokens (an iterator: each list is one page without objects, and says that the rest comes for the next of these), short (a function:
    a watch is the event that it returns, and ends).
    """

    def __init__(self, cert=None, token=None):
        self.lock = threading.Condition()
        self.version, self.epoch = 100, 0
        self.collections = {"endpointslices": Collection(), "pods": Collection()}
        self.split, self.refuse, self.page, self.garbage, self.bookmarks, self.gone_pages = 0, None, 250, None, True, 0
        self.refuse_pods, self.token, self.tokens, self.short = None, token, None, None
        self.requests, self.watches = [], 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                try:
                    api.serve(self)
                except OSError:
                    self.close_connection = True

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        if cert:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*cert)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{'https' if cert else 'http'}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    # ---- what happens in the cluster

    def put(self, kind, obj):
        name = obj["metadata"]["name"]
        with self.lock:
            collection = self.collections[kind]
            self.version += 1
            obj = copy.deepcopy(obj)
            obj["metadata"]["resourceVersion"] = str(self.version)
            event = "MODIFIED" if name in collection.objects else "ADDED"
            collection.objects[name] = obj
            collection.events.append((self.version, event, obj))
            self.lock.notify_all()

    def delete(self, kind, name):
        with self.lock:
            collection = self.collections[kind]
            self.version += 1
            obj = copy.deepcopy(collection.objects.pop(name))
            obj["metadata"]["resourceVersion"] = str(self.version)
            collection.events.append((self.version, "DELETED", obj))
            self.lock.notify_all()

    def compact(self):
        """Watches from a version before now are too old."""
        with self.lock:
            self.version += 1
            for collection in self.collections.values():
                collection.events.clear()
                collection.oldest = self.version

    def cut(self):
        with self.lock:
            self.epoch += 1
            self.lock.notify_all()

    def end(self):
        self.cut()
        self.server.shutdown()
        self.server.server_close()

    # ---- requests

    def serve(self, handler):
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind = url.path.rsplit("/", 1)[1]
        self.requests.append((url.path, query, dict(handler.headers)))
        refuse = self.refuse or (self.refuse_pods if kind == "pods" else None)
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            refuse = 401
        if refuse:
            self.answer(handler, refuse, status_of(refuse, "Refused"))
        elif "watch" in query:
            self.watch(handler, kind, query)
        else:
            self.list(handler, kind, query)

    @staticmethod
    def chosen(obj, query):
        selector = query.get("labelSelector")
        return not selector or all(obj["metadata"]["labels"].get(term.split("=")[0]) == term.split("=")[1] for term in selector.split(","))

    def answer(self, handler, code, obj):
        body = json.dumps(obj).encode()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        self.write(handler, body, False)

    def write(self, handler, data, chunked=True):
        step = self.split or len(data) or 1
        for i in range(0, len(data), step):
            piece = data[i:i + step]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            handler.wfile.flush()

    def list(self, handler, kind, query):
        limit = min(int(query.get("limit", 10**6)), self.page)
        with self.lock:
            if "continue" in query and not self.tokens:
                token = json.loads(base64.b64decode(query["continue"]))
                items, version = token["items"], token["version"]
                if self.gone_pages:
                    self.gone_pages -= 1
                    items = None
            else:
                items, version = sorted(self.collections[kind].objects), self.version
            objects = [] if items is None else [self.collections[kind].objects[name] for name in items[:limit] if name in self.collections[kind].objects]
        if items is None:
            self.answer(handler, 410, status_of(410, "Expired"))
            return
        meta = {"resourceVersion": str(version)}
        if self.tokens:
            self.answer(handler, 200, {"kind": "List", "apiVersion": "v1", "metadata": {**meta, "continue": next(self.tokens)}, "items": []})
            return
        if items[limit:]:
            meta["continue"] = base64.b64encode(json.dumps({"items": items[limit:], "version": version}).encode()).decode()
        self.answer(handler, 200, {"kind": "List", "apiVersion": "v1", "metadata": meta, "items": [o for o in objects if self.chosen(o, query)]})

    def watch(self, handler, kind, query):
        if not query.get("resourceVersion", "").isdigit():
            self.answer(handler, 400, status_of(400, "BadRequest"))
            return
        collection, seen = self.collections[kind], int(query["resourceVersion"])
        with self.lock:
            epoch, too_old = self.epoch, seen < collection.oldest
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        if too_old:
            self.event(handler, "ERROR", status_of(410, "Expired"))
            self.write(handler, b"")
            handler.wfile.write(b"0\r\n\r\n")
            return
        self.watches += 1
        if self.short:
            self.event(handler, *self.short())
            handler.wfile.write(b"0\r\n\r\n")
            return
        soiled = None
        end = time.monotonic() + float(query.get("timeoutSeconds", 300))
        while time.monotonic() < end:
            with self.lock:
                self.lock.wait_for(lambda: self.epoch != epoch or self.garbage != soiled or any(v > seen for v, _, _ in collection.events), 1)
                if self.epoch != epoch:
                    handler.close_connection = True
                    return
                garbage = self.garbage if self.garbage != soiled else None
                soiled = self.garbage
                events = [e for e in collection.events if e[0] > seen]
            if garbage:
                self.write(handler, garbage)
            for version, what, obj in events:
                if self.chosen(obj, query):
                    self.event(handler, what, obj)
                seen = version
            if events and self.bookmarks:
                self.event(handler, "BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(seen)}})
        handler.wfile.write(b"0\r\n\r\n")

    def event(self, handler, what, obj):
        self.write(handler, json.dumps({"type": what, "object": obj}).encode() + b"\n")
