"""Bundles on disk: nothing damaged, foreign or outside is opened, nothing half written is left."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import onnx
import pytest

from elit_edge import Bundle
from elit_edge.bundle_files import BundleFiles, file_entries, sha256_of, staged_folder, write_manifest
from elit_edge.errors import BundleError
from elit_edge.runtimes.contract import Missing
from elit_edge.runtimes.registry import all_runtimes

WEIGHTS = "onnx/weights.safetensors"
REMEDY = re.compile(r"elit-edge export|export it again|export the bundle again")


@pytest.fixture
def folder(tiny_bundle_path, tmp_path):
    """A copy of the tiny bundle, in a folder of its own."""
    return Path(shutil.copytree(tiny_bundle_path, tmp_path / "place" / "tiny.elit"))


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    whole = json.loads(path.read_bytes())
    change(whole)
    path.write_text(json.dumps(whole))


def reseal(folder):
    """Make the manifest agree with the files as they are now, as an attacker would."""

    def change(whole):
        paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
        whole["files"] = {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in paths
        }

    edit_manifest(folder, change)


def list_file(folder, name, content=b"secret"):
    """List a file in the manifest, with the digest of its content."""
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit_manifest(folder, lambda whole: whole["files"].update({name: entry}))


def refused(folder, words):
    with pytest.raises(BundleError, match=words) as caught:
        Bundle.open(folder)
    assert REMEDY.search(str(caught.value)), f"no remedy in: {caught.value}"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def entries(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_intact_copy_opens(folder):
    bundle = Bundle.open(folder)
    assert bundle.manifest.name == "tiny"
    assert bundle.files.path(WEIGHTS) == folder / WEIGHTS
    assert bundle.files.graph_path(bundle.manifest.graph("velocity", "fp32")) == folder / "onnx/velocity.onnx"


def test_a_bundle_opens_by_a_path_in_words_and_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert Bundle.open("tiny.elit").manifest == Bundle.open(str(folder)).manifest


def test_a_copy_resealed_opens(folder):
    """The tests below that seal a change would prove nothing if the sealing itself were refused."""
    reseal(folder)
    Bundle.open(folder)


@pytest.mark.parametrize("name", ["onnx/model.onnx", WEIGHTS])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name} missing")


@pytest.mark.parametrize("name", ["onnx/notes.txt", ".DS_Store", "manifest.json.bak", "deep/down/x"])
def test_a_file_that_is_not_listed_is_refused(folder, name):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x")
    refused(folder, f"{name} not listed")


def test_all_files_that_are_wrong_are_named_at_once(folder):
    (folder / WEIGHTS).rename(folder / "onnx/renamed")
    refused(folder, f"{WEIGHTS} missing, onnx/renamed not listed")


@pytest.mark.parametrize("name", [WEIGHTS, "onnx/velocity.onnx"])
@pytest.mark.parametrize("at", [0, 5000, -1])
def test_a_single_flipped_bit_is_refused(folder, name, at):
    flip(folder / name, at)
    refused(folder, f"{name} does not match its digest")


@pytest.mark.parametrize("name", [WEIGHTS, "onnx/condition.onnx"])
def test_a_truncated_file_is_refused(folder, name):
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size - 1)
    refused(folder, f"{name} has {size - 1} bytes, the manifest says {size}")


def test_a_longer_file_is_refused(folder):
    with (folder / WEIGHTS).open("ab") as stream:
        stream.write(b"\0")
    refused(folder, "bytes, the manifest says")


@pytest.mark.parametrize("name", ["onnx/velocity.onnx", "onnx", "manifest.json"])
def test_a_link_is_refused_even_where_it_leads_to_the_right_bytes(folder, name):
    elsewhere = folder.parent / "elsewhere"
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    refused(folder, f"{name} is a link")


def test_a_link_inside_the_bundle_is_refused(folder):
    (folder / "onnx/model.onnx").unlink()
    (folder / "onnx/model.onnx").symlink_to("velocity.onnx")
    refused(folder, "is a link")


def test_a_link_to_nowhere_is_refused(folder):
    (folder / "onnx/gone").symlink_to("/nowhere/at/all")
    refused(folder, "gone is a link")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["onnx/pipe", WEIGHTS])
def test_a_pipe_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    refused(folder, "special file")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "onnx/../../secret",
        "onnx/../onnx/model.onnx",
        "/etc/hostname",
        "//etc/hostname",
        "onnx\\model.onnx",
        "..\\secret",
        "./onnx/model.onnx",
        "onnx//model.onnx",
        "onnx/",
        "",
    ],
)
def test_a_listed_path_that_is_not_plainly_inside_is_refused(folder, name):
    """The file is there, with the digest that is listed: only its place is wrong."""
    (folder.parent / "secret").write_bytes(b"secret")
    list_file(folder, name)
    refused(folder, re.escape(repr(name)))


@pytest.mark.parametrize("name", [".", "onnx", "onnx/model.onnx/x", "onnx/a\0b", "x" * 300])
def test_a_listed_path_that_is_no_file_is_refused(folder, name):
    list_file(folder, name)
    refused(folder, f"{re.escape(name)} missing")


@pytest.mark.parametrize("field", ["path", "weights"])
@pytest.mark.parametrize("name", ["onnx/not_listed", "../secret", "/etc/hostname", "manifest.json", ""])
def test_a_graph_whose_file_has_no_digest_is_refused(folder, field, name):
    (folder.parent / "secret").write_bytes(b"secret")
    edit_manifest(folder, lambda whole: whole["graphs"][0].update({field: name}))
    refused(folder, f"file {re.escape(repr(name))} has no digest")


def test_a_manifest_that_lists_itself_is_refused(folder):
    list_file(folder, "manifest.json", (folder / "manifest.json").read_bytes())
    refused(folder, r"manifest\.json")


def test_a_folder_without_manifest_is_no_bundle(folder):
    (folder / "manifest.json").unlink()
    refused(folder, r"is no bundle: it has no manifest\.json")


def test_a_folder_in_place_of_the_manifest_is_no_bundle(folder):
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()
    refused(folder, r"is no bundle: it has no manifest\.json")


def test_a_huge_manifest_is_refused_unread(folder):
    os.truncate(folder / "manifest.json", 1 << 36)
    refused(folder, r"manifest\.json is larger than any manifest")


def test_a_manifest_that_is_no_json_is_refused_by_its_path(folder):
    os.truncate(folder / "manifest.json", 100)
    refused(folder, re.escape(f"{folder / 'manifest.json'} is no bundle manifest"))


def test_an_empty_folder_is_no_bundle(tmp_path):
    refused(tmp_path, "is no bundle")


def test_a_file_is_no_bundle(folder):
    refused(folder / "manifest.json", "no bundle at")


def test_a_path_that_is_not_there_is_no_bundle(tmp_path):
    refused(tmp_path / "nothing.elit", r"no bundle at .*nothing\.elit")


def test_a_precision_that_the_bundle_does_not_have_is_refused_with_those_it_has(folder):
    with pytest.raises(BundleError, match=r"cannot be computed in fp16 by onnxruntime; it can in: fp32"):
        Bundle.open(folder).prepare("onnxruntime", precision="fp16")


def test_a_bundle_without_graphs_is_refused(folder):
    edit_manifest(folder, lambda whole: whole.update(graphs=[]))
    with pytest.raises(BundleError, match=REMEDY):
        Bundle.open(folder).prepare("onnxruntime")


@pytest.mark.parametrize("runtime", sorted(all_runtimes()))
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"garbage"), id="garbage"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: os.truncate(path, path.stat().st_size // 2), id="half"),
    ],
)
def test_files_that_agree_with_the_manifest_and_are_no_graphs_and_weights_are_refused(folder, runtime, damage):
    state = all_runtimes()[runtime].check()
    if isinstance(state, Missing):
        pytest.skip(f"{runtime}: {state.reason}; {state.remedy}")
    for name in ("onnx/condition.onnx", "onnx/velocity.onnx", WEIGHTS):
        damage(folder / name)
    reseal(folder)
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match="export the bundle again"):
        bundle.prepare(runtime)


def point_weights_to(folder, location):
    """Make every tensor of the two graphs that a session opens lie at another location; seal the bundle again."""
    for name in ("condition", "velocity"):
        path = folder / f"onnx/{name}.onnx"
        model = onnx.load(path, load_external_data=False)
        moved = [
            entry for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
        ]
        assert moved
        for entry in moved:
            entry.value = location
        path.write_bytes(model.SerializeToString())
    reseal(folder)


def test_a_graph_may_take_its_weights_from_another_file_of_its_folder(folder, expected):
    """Shows that moving the weights is not refused as such: the next test is about where they lead."""
    (folder / WEIGHTS).rename(folder / "onnx/moved")
    edit_manifest(folder, lambda whole: [graph.update(weights="onnx/moved") for graph in whole["graphs"]])
    point_weights_to(folder, "moved")
    with Bundle.open(folder).prepare("onnxruntime", threads=1) as session:
        v = session.velocity(expected["x"], expected["t"], expected["y"], 4)
    assert np.abs(v - expected["v_04"]).max() < 1e-5


@pytest.mark.parametrize("form", ["climbing", "climbing from a folder", "absolute", "through a link beside the bundle"])
def test_a_graph_whose_weights_lie_outside_the_bundle_is_refused(folder, form):
    """The file outside is a copy of the weights: whatever would read it would run, and not be refused."""
    secret = folder.parent / "secret.bin"
    shutil.copy(folder / WEIGHTS, secret)
    if form == "through a link beside the bundle":
        (folder.parent / "link").symlink_to(folder.parent)
    locations = {
        "climbing": "../../secret.bin",
        "climbing from a folder": "../onnx/../../secret.bin",
        "absolute": str(secret.resolve()),
        "through a link beside the bundle": "../../link/secret.bin",
    }
    point_weights_to(folder, locations[form])
    with pytest.raises(BundleError, match=REMEDY):
        Bundle.open(folder).prepare("onnxruntime")


def test_entries_hold_digest_and_size_of_every_file_but_the_manifest(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b/empty").write_bytes(b"")
    (tmp_path / "b/abc").write_bytes(b"abc")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    found = {name: (entry.sha256, entry.bytes) for name, entry in file_entries(tmp_path).items()}
    assert found == {
        "b/abc": ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3),
        "b/empty": ("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0),
    }


def test_the_digest_of_a_file_larger_than_a_chunk_is_that_of_all_its_bytes(tmp_path):
    data = np.random.default_rng(0).bytes((2 << 20) + 7)
    (tmp_path / "large").write_bytes(data)
    assert sha256_of(tmp_path / "large") == hashlib.sha256(data).hexdigest()


def test_a_manifest_written_is_the_manifest_read(folder):
    files = BundleFiles.open(folder)
    before = (folder / "manifest.json").read_bytes()
    write_manifest(folder, files.manifest)
    assert (folder / "manifest.json").read_bytes() == before
    assert BundleFiles.open(folder).manifest == files.manifest


def fill(stage, content="new"):
    (stage / "onnx").mkdir()
    (stage / "onnx/graph").write_text(content)
    (stage / "manifest.json").write_text(content)


WHOLE = ["manifest.json", "onnx", "onnx/graph"]


def holds(target, content):
    return entries(target) == WHOLE and {(target / name).read_text() for name in (WHOLE[0], WHOLE[2])} == {content}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "shelf/new.elit"


@pytest.fixture
def old(target):
    """A bundle that stands at the target already."""
    target.mkdir(parents=True)
    fill(target, "old")
    return target


def test_a_staged_folder_appears_whole_and_alone(target):
    with staged_folder(target, replace=False) as stage:
        fill(stage)
        assert not target.exists()
        assert stage.parent == target.parent, "a rename from another file system would not be atomic"
    assert holds(target, "new")
    assert names(target.parent) == [target.name]


def test_a_staged_folder_can_be_read_by_others_as_any_folder(target):
    with staged_folder(target, replace=False) as stage:
        fill(stage)
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_staged_folder_vanishes_when_its_block_fails(target, error):
    def fail():
        with staged_folder(target, replace=False) as stage:
            fill(stage)
            raise error

    with pytest.raises(error):
        fail()
    assert names(target.parent) == []


def test_a_replaced_folder_stands_until_the_new_one_is_complete(old):
    with staged_folder(old, replace=True) as stage:
        fill(stage)
        assert holds(old, "old")
    assert holds(old, "new")
    assert names(old.parent) == [old.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_is_not_replaced_when_the_block_fails(old, error):
    def fail():
        with staged_folder(old, replace=True) as stage:
            fill(stage)
            raise error

    with pytest.raises(error):
        fail()
    assert holds(old, "old")
    assert names(old.parent) == [old.name]


@pytest.mark.parametrize("error", [OSError("the disk went away"), KeyboardInterrupt()])
def test_a_folder_is_not_lost_when_its_replacement_cannot_take_its_place(old, monkeypatch, error):
    """The old folder has to step aside first: what fails between the two renames must bring it back."""
    rename = Path.replace

    def fail_for_the_new_one(self, destination):
        if Path(destination) == old and holds(self, "new"):
            raise error
        return rename(self, destination)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(type(error)), staged_folder(old, replace=True) as stage:
        fill(stage)
    assert holds(old, "old")
    assert names(old.parent) == [old.name]


@pytest.mark.parametrize("kind", ["bundle", "empty folder", "file"])
def test_what_exists_is_refused_and_stays_as_it_was(target, kind):
    target.parent.mkdir()
    if kind == "file":
        target.write_text("precious")
    else:
        target.mkdir()
        if kind == "bundle":
            fill(target, "old")
    before = entries(target.parent)
    with pytest.raises(BundleError, match="--force to replace it"), staged_folder(target, replace=False):
        pytest.fail("the block ran")
    assert entries(target.parent) == before


def test_what_is_to_be_replaced_need_not_be_there(target):
    with staged_folder(target, replace=True) as stage:
        fill(stage)
    assert holds(target, "new")


def ended_process():
    """The number of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_bundle_that_a_killed_run_had_set_aside_comes_back(target):
    aside = target.parent / f".{target.name}.old-{ended_process()}-abc123"
    (aside / target.name).mkdir(parents=True)
    fill(aside / target.name)
    with pytest.raises(BundleError, match="--force"), staged_folder(target, replace=False):
        pass
    assert holds(target, "new")
    assert names(target.parent) == [target.name]


@pytest.mark.parametrize("name", ["new.elit", "with space.elit", "a[1]*.elit"])
def test_debris_of_a_killed_run_is_cleaned_by_the_next_and_nothing_else_is(target, name):
    target = target.with_name(name)
    debris = target.parent / f".{name}.part-{ended_process()}-abc123"
    debris.mkdir(parents=True)
    (debris / "half").write_text("x")
    others = [
        ".other.elit.part-1-abc123",
        f".{name}.part-{os.getppid()}-abc123",
        "other.elit",
        f"{name}.part-notes",
        f".{name}",
    ]
    for other in others:
        (target.parent / other).mkdir()
    with staged_folder(target, replace=False) as stage:
        fill(stage)
    assert names(target.parent) == sorted([*others, name])


STAGE_AND_WAIT = dedent("""
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even where this test run ignores it
    import sys, time
    from pathlib import Path
    from elit_edge.bundle_files import staged_folder
    with staged_folder(Path(sys.argv[1]), replace=True) as stage:
        (stage / "onnx").mkdir()
        (stage / "onnx/graph").write_text("half")
        print("staged", flush=True)
        time.sleep(60)
""")


def kill_in_the_middle(target, number):
    """Run the block in a process of its own; kill that when the half-written folder is there."""
    with subprocess.Popen([sys.executable, "-c", STAGE_AND_WAIT, target], stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout.readline() == "staged\n"
        finally:
            run.send_signal(number)
        run.stdout.read()
    return run.returncode


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_leaves_no_bundle_and_the_next_run_cleans_up(target):
    assert kill_in_the_middle(target, signal.SIGKILL) == -signal.SIGKILL
    assert not target.exists()
    (debris,) = names(target.parent)
    with pytest.raises(BundleError):
        Bundle.open(target.parent / debris)
    with staged_folder(target, replace=False) as stage:
        fill(stage)
    assert holds(target, "new")
    assert names(target.parent) == [target.name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_run_leaves_the_old_bundle_as_it_was(old):
    assert kill_in_the_middle(old, signal.SIGKILL) == -signal.SIGKILL
    assert holds(old, "old")


@pytest.mark.skipif(os.name != "posix", reason="signals work another way here")
def test_an_interrupted_run_cleans_up_after_itself(target):
    assert kill_in_the_middle(target, signal.SIGINT) != 0
    assert names(target.parent) == []


def test_a_place_inside_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(BundleError, match=r"cannot write to .*file"),
        staged_folder(tmp_path / "file/new.elit", replace=False),
    ):
        pytest.fail("the block ran")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system here that even root cannot write")
def test_a_place_that_cannot_be_written_is_refused():
    with (
        pytest.raises(BundleError, match="cannot write to /proc/self"),
        staged_folder(Path("/proc/self/new.elit"), replace=False),
    ):
        pytest.fail("the block ran")


def test_a_folder_without_write_permission_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(BundleError, match="Permission denied"), staged_folder(tmp_path / "new.elit", replace=False):
            pytest.fail("the block ran")
    finally:
        tmp_path.chmod(0o755)
