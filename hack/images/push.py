"""Makes the test images from directory trees and pushes them to a registry: push.py REGISTRY ROOTS [--big|--e2e].

Each tree under ROOTS is one layer. Everything is reproducible: times are fixed and entries sorted, so that digests
stay the same until a tree changes.
"""

import functools
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import typing
import urllib.error
import urllib.request

EPOCH = 1_700_000_000
CREATED = "2023-11-14T22:13:20Z"


class Kind(typing.NamedTuple):
    """The media types of one image format."""

    index: str
    manifest: str
    config: str
    layer: dict


OCI = Kind(
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    {c: f"application/vnd.oci.image.layer.v1.tar+{c}" for c in ("gzip", "zstd")},
)
DOCKER = Kind(
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.container.image.v1+json",
    {"gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip"},
)


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


# === layers ===


def tree_as_tar(tree):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory, names, files in os.walk(tree):
            names.sort()
            for name in sorted(names + files):
                path = os.path.join(directory, name)
                entry = tar.gettarinfo(path, os.path.relpath(path, tree))
                entry.mtime, entry.uname, entry.gname = EPOCH, "", ""
                if entry.isreg():
                    with open(path, "rb") as content:
                        tar.addfile(entry, content)
                else:
                    tar.addfile(entry)
    return out.getvalue()


@functools.cache
def layer(tree, compression):
    """The diff id and the compressed bytes of a tree."""
    raw = tree_as_tar(tree)
    if compression == "gzip":
        return digest(raw), gzip.compress(raw, 6, mtime=0)
    packed = subprocess.run(["zstd", "-3", "-q", "-c"], input=raw, stdout=subprocess.PIPE, check=True)
    return digest(raw), packed.stdout


# === the registry ===


class Registry:
    def __init__(self, host, roots):
        self.base = f"http://{host}/v2"
        self.roots = roots

    def request(self, method, url, data=None, **headers):
        if url.startswith("/"):
            url = self.base + url
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return urllib.request.urlopen(urllib.request.Request(url, data, named, method=method))

    def has_blob(self, repository, name):
        try:
            self.request("HEAD", f"/{repository}/blobs/{name}")
        except urllib.error.HTTPError:
            return False
        return True

    def blob(self, repository, data):
        name = digest(data)
        if not self.has_blob(repository, name):
            upload = self.request("POST", f"/{repository}/blobs/uploads/", b"").headers["Location"]
            upload += ("&" if "?" in upload else "?") + "digest=" + name
            self.request("PUT", upload, data, Content_Type="application/octet-stream")
        return name

    def document(self, repository, name, data, media_type):
        self.request("PUT", f"/{repository}/manifests/{name}", data, Content_Type=media_type)

    def manifest(self, repository, image, platform):
        """Pushes config and layers for one platform; the manifest that names them."""
        layers = [layer(os.path.join(self.roots, name), image.compression) for name in image.layers]
        config = compact({
            "created": CREATED,
            **platform,
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
            "history": [{"created": CREATED, "created_by": f"hack/images {name}"} for name in image.layers],
        })
        return compact({
            "schemaVersion": 2,
            "mediaType": image.kind.manifest,
            "config": {
                "mediaType": image.kind.config,
                "size": len(config),
                "digest": self.blob(repository, config),
            },
            "layers": [
                {
                    "mediaType": image.kind.layer[image.compression],
                    "size": len(data),
                    "digest": self.blob(repository, data),
                }
                for _, data in layers
            ],
        })

    def push(self, repository, tags, image):
        amd64 = {"architecture": "amd64", "os": "linux"}
        top, media_type = self.manifest(repository, image, amd64), image.kind.manifest
        if image.platforms > 1:
            # The other platform has the same files; it is there to be passed over.
            arm64 = {"architecture": "arm64", "os": "linux", "variant": "v8"}
            listed = [(arm64, self.manifest(repository, image, arm64)), (amd64, top)]
            for _, manifest in listed:
                self.document(repository, digest(manifest), manifest, media_type)
            top = compact({
                "schemaVersion": 2,
                "mediaType": image.kind.index,
                "manifests": [
                    {"mediaType": media_type, "size": len(m), "digest": digest(m), "platform": platform}
                    for platform, m in listed
                ],
            })
            media_type = image.kind.index
        for tag in tags:
            self.document(repository, tag, top, media_type)
        print(f"{repository}:{','.join(tags)} {digest(top)}", flush=True)


# === the images ===


class Image(typing.NamedTuple):
    layers: list
    config: dict
    kind: Kind = DOCKER
    platforms: int = 2
    compression: str = "gzip"


PATH = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
SHELL = {"Env": PATH, "Cmd": ["sh"]}
NGINX = {"Env": PATH, "Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}}
HTTPD = {
    "Env": ["PATH=/usr/local/apache2/bin:" + PATH[0].removeprefix("PATH=")],
    "Cmd": ["httpd", "-D", "FOREGROUND"],
    "WorkingDir": "/usr/local/apache2",
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGWINCH",
}
PAUSE = {"Env": PATH, "Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"}


def marked(name, **config):
    return Image(["busybox", "mark-" + name], SHELL | config)


def e2e():
    """What registry.k8s.io/e2e-test-images has. critest asserts on what is in them: a shell that execs its applets,
    pgrep, ipcs, brctl, netstat, pidof and top; nginx with its master process's title, its pid file and 200 on port
    80; httpd as argv[0] and in its log; a setuid program that prints its effective uid."""
    yield "busybox", ["1.29-2"], Image(["busybox"], SHELL)
    yield "nginx", ["1.14-2"], Image(["busybox", "nginx"], NGINX | {"StopSignal": "SIGTERM"})
    yield "httpd", ["2.4.39-4"], Image(["busybox", "httpd"], HTTPD)
    yield "nonewprivs", ["1.3"], Image(["busybox", "nonewprivs"], {"Env": PATH, "Entrypoint": ["/nnp"]})


def staging():
    """What gcr.io/k8s-staging-cri-tools has: users, tags and digests in all their forms."""
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
    for name, user in users.items():
        yield f"test-image-user-{name}", ["latest"], Image(["busybox"], SHELL | {"User": user})
    yield "test-image-predefined-group", ["latest"], Image(["busybox", "group"], SHELL | {"User": "1000"})
    for name in ("latest", "1", "2", "3"):
        yield f"test-image-{name}", ["latest"], marked(name)
    yield "test-image-tag", ["test"], marked("tag-test")
    yield "test-image-tag", ["all"], marked("tag-all")
    yield "test-image-tags", ["1", "2", "3"], marked("tags")
    # A manifest of its own, no index: its spec wants exactly one repo digest.
    yield "test-image-digest", ["latest"], marked("digest")._replace(platforms=1)
    hostnet = Image(["busybox", "nginx", "hostnet"], NGINX | {"StopSignal": "SIGQUIT"}, platforms=1)
    yield "hostnet-nginx-amd64", ["latest"], hostnet


def big():
    """Eight layers to measure a pull with."""
    for compression in ("gzip", "zstd"):
        layers = [f"big-{number}" for number in range(8)]
        config = {"Env": PATH, "Cmd": ["/bin/bash"]}
        yield "bench/big", [compression], Image(layers, config, OCI, 1, compression)


AGNHOST = {"Env": PATH, "Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": {"80/tcp": {}}}


def kubernetes():
    """What Kubernetes' end-to-end tests of a node ask for beyond these, by the versions of 1.36. Two tags that have to be
    two images differ by a mark."""
    for version in ("2.55", "2.63.0"):
        yield "agnhost", [version], Image(["debian", "agnhost"], AGNHOST)
    yield "glibc-dns-testing", ["2.0.0"], Image(["debian"], SHELL)
    yield "kitten", ["1.8"], Image(["busybox", "kitten"], SHELL)
    yield "busybox", ["1.37.0-1"], Image(["busybox"], SHELL)
    yield "nginx", ["1.15-4"], Image(["busybox", "nginx"], NGINX | {"StopSignal": "SIGTERM"})
    yield "nginx", ["1.27-0"], Image(["busybox", "nginx", "mark-1"], NGINX | {"StopSignal": "SIGTERM"})
    yield "nonewprivs", ["1.4"], Image(["busybox", "nonewprivs"], {"Env": PATH, "Entrypoint": ["/nnp"]})
    yield "nonroot", ["1.5"], Image(["busybox", "mark-2"], {"Env": PATH, "Cmd": ["id"], "User": "1234"})


def images(size):
    for name, tags, image in e2e():
        yield "e2e-test-images/" + name, tags, image
    for name, tags, image in staging():
        yield "k8s-staging-cri-tools/" + name, tags, image
    yield "pause", ["3.9"], Image(["pause"], PAUSE)
    yield "pause", ["3.10.1"], Image(["pause"], PAUSE, OCI)
    # Ends on TERM at once, and has a shell for exec.
    yield "bench/app", ["1"], Image(["busybox", "pause"], {"Env": PATH, "Cmd": ["/pause"]}, OCI, 1)
    # The same files once more as zstd layers.
    yield "zstd/busybox", ["1"], Image(["busybox", "mark-1"], SHELL, OCI, 1, "zstd")
    if size == "--big":
        yield from big()
    if size == "--e2e":
        for name, tags, image in kubernetes():
            yield "e2e-test-images/" + name, tags, image._replace(platforms=1)
        yield "pause", ["3.10.2"], Image(["pause"], PAUSE, OCI, 1)


def main():
    host, roots, size = sys.argv[1:]
    registry = Registry(host, roots)
    for name, tags, image in images(size):
        registry.push(name, tags, image)


main()
