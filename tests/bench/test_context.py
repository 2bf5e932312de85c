"""What makes two reports comparable, and what does not."""

from __future__ import annotations

import platform

import msgspec
import numpy as np
import pytest

from elit_edge.bench import context
from elit_edge.bench.context import context_of, identity_of, kind_of
from elit_edge.bench.report import Candidate, context_digest
from elit_edge.bundle import Bundle
from elit_edge.bundle_files import BundleFiles
from elit_edge.quality import published_table


@pytest.fixture
def parts(device, tiny_bundle_path, made_report):
    (candidate,) = made_report().candidates
    return {
        "device": device,
        "files": Bundle.open(tiny_bundle_path).files,
        "threads": None,
        "candidates": [candidate],
    }


def digest(parts):
    return context_digest(identity_of(**parts))


def other_file(bundle):
    files = dict(bundle.manifest.files)
    name = next(iter(files))
    files[name] = msgspec.structs.replace(files[name], sha256="0" * 64)
    return BundleFiles(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))


@pytest.mark.parametrize(
    ("part", "change", "kind"),
    [
        ("device", lambda found: msgspec.structs.replace(found, identity="another"), "device"),
        ("files", other_file, "bundle"),
        ("threads", lambda _: 2, "threads"),
        ("candidates", lambda found: [msgspec.structs.replace(found[0], version="9.9")], "versions"),
        ("candidates", lambda found: [*found, msgspec.structs.replace(found[0], runtime="openvino")], "versions"),
    ],
)
def test_each_part_changes_the_digest_and_is_named(parts, part, change, kind):
    before = identity_of(**parts)
    after = identity_of(**{**parts, part: change(parts[part])})
    assert context_digest(before) != context_digest(after)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert {kind_of(name) for name in changed} == {kind}
    assert len(changed) == 1


@pytest.mark.parametrize(
    ("place", "name", "part"),
    [
        (context, "__version__", "elit-edge"),
        (platform, "python_version", "python"),
        (np, "__version__", "numpy"),
    ],
)
def test_a_version_changes_the_digest(parts, monkeypatch, place, name, part):
    before = digest(parts)
    monkeypatch.setattr(place, name, (lambda: "0.0") if name == "python_version" else "0.0")
    assert digest(parts) != before
    assert identity_of(**parts)[part] == "0.0"


def test_nothing_else_changes_it(parts):
    before = digest(parts)
    device = msgspec.structs.replace(parts["device"], name="renamed", thermal=(), kernel="other", notes=("a note",))
    manifest = msgspec.structs.replace(
        parts["files"].manifest, name="renamed", quality=published_table(4, "ccfg", 1, 2.5), verification=None
    )
    files = BundleFiles(parts["files"].folder, manifest)
    slower: Candidate = msgspec.structs.replace(parts["candidates"][0], open_ms=9e3, peak_bytes=None)
    assert digest({**parts, "device": device, "files": files, "candidates": [slower]}) == before


@pytest.mark.parametrize(("load", "busy"), [(0.99, False), (1.0, True), (None, None)])
def test_a_busy_machine_is_called_busy(device, load, busy):
    assert context_of(device, load, {}).busy is busy
