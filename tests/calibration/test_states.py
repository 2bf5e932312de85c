"""Calibration sets: whose states they are, what a killed run keeps, and what no file may do."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from elit_edge.bundle import Bundle
from elit_edge.calibration import collecting
from elit_edge.calibration.collecting import collect
from elit_edge.calibration.set_file import load_set, save_set
from elit_edge.calibration.states import CalibrationSet, Stratum, default_recipe, source_digest
from elit_edge.errors import BudgetError, CalibrationError, RequestError
from elit_edge.generation import generate
from elit_edge.noise import NoiseStream
from elit_edge.sampling import Move, solve, times

PATIENCE_S = 60
BUDGETS, STEPS, CLASSES = (1, 4, 16), 3, 4
NULL = 10
SCRIPT = (
    "import sys; from elit_edge.bundle import Bundle\n"
    "from elit_edge.calibration.collecting import collect\nfrom elit_edge.calibration.states import default_recipe\n"
    "bundle = Bundle.open(sys.argv[1])\n"
    "recipe = default_recipe(bundle.files, budgets=(1, 4, 16), steps=int(sys.argv[2]))\n"
    "with bundle.prepare('onnxruntime', 'fp32', threads=1) as session:\n"
    "    print(collect(session, recipe, lambda *_: None, print).digest)\n"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, in a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def bundle(tiny_bundle_path):
    return Bundle.open(tiny_bundle_path)


@pytest.fixture(scope="module")
def session(bundle):
    with bundle.prepare("onnxruntime", "fp32", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def recipe(bundle):
    return default_recipe(bundle.files, budgets=BUDGETS, steps=STEPS)


@pytest.fixture(scope="module")
def found(session, recipe, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("set-cache")))
        return take(session, recipe)


@pytest.fixture
def taken(monkeypatch):
    """The budgets, by place in the recipe, whose states are computed and not read from the cache."""
    seen = []
    real = collecting._trajectories

    def watched(session, recipe, index, advance):
        seen.append(index)
        return real(session, recipe, index, advance)

    monkeypatch.setattr(collecting, "_trajectories", watched)
    return seen


def take(session, recipe, say=pytest.fail):
    return collect(session, recipe, lambda _stage, _share: None, say)


# --- what is taken


def test_the_default_set_covers_the_ladder_from_the_least_to_the_full_budget(bundle):
    recipe = default_recipe(bundle.files)
    assert recipe.budgets == (1, 2, 4, 8, 16)
    assert recipe.states == 5 * 8 * 4 * 2
    sampler = bundle.manifest.sampler
    assert (recipe.guidance, recipe.scale, recipe.weak_latents) == (sampler.guidance, sampler.scale, 1)
    assert recipe.source_sha256 == bundle.files.digest, "nothing but float32 in it"


def test_a_model_without_latents_has_one_budget(bundle):
    files = with_manifest(bundle, **sit(bundle))
    assert default_recipe(files).budgets == (1,)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"budgets": (17,)}, BudgetError, "17"),
        ({"budgets": ()}, RequestError, "at least one"),
        ({"steps": 0}, RequestError, "steps = 0"),
        ({"classes": 0}, RequestError, "classes = 0"),
        ({"seed": -1}, RequestError, "seed -1"),
    ],
)
def test_settings_of_no_set_are_refused(bundle, wrong, error, words):
    with pytest.raises(error, match=words):
        default_recipe(bundle.files, **wrong)


def test_the_source_is_the_same_after_the_bundle_got_another_precision(bundle):
    graphs, files = bundle.manifest.graphs, dict(bundle.manifest.files)
    files["onnx/int8.onnx"] = files["calibration/int8.json"] = next(iter(files.values()))
    added = msgspec.structs.replace(graphs[0], precision="int8", path="onnx/int8.onnx", weights="onnx/int8.onnx")
    calibrated = with_manifest(bundle, graphs=(*graphs, added), files=files)
    assert calibrated.digest != bundle.files.digest
    assert source_digest(calibrated) == bundle.files.digest
    files[graphs[0].weights] = files[graphs[0].path]
    assert source_digest(with_manifest(bundle, files=files)) != bundle.files.digest
    with pytest.raises(CalibrationError, match=r"no fp32 graphs.*int8"):
        source_digest(with_manifest(bundle, graphs=(added,)))


def test_every_state_is_in_one_stratum_and_strata_are_equal(found):
    strata = list(found.strata())
    wanted = [Stratum(j, float(np.float32(t)), c) for j in BUDGETS for t in (1, 2 / 3, 1 / 3) for c in (True, False)]
    assert [stratum for stratum, _ in strata] == wanted
    assert sorted(row for _, rows in strata for row in rows) == list(range(len(found.x)))
    assert {len(rows) for _, rows in strata} == {CLASSES}
    for (labelled, rows), (unlabelled, others) in zip(strata[::2], strata[1::2], strict=True):
        assert (labelled.latents, labelled.t) == (unlabelled.latents, unlabelled.t)
        assert np.array_equal(found.x[rows], found.x[others]), "the same states with and without their labels"
        assert (found.y[others] == NULL).all()
    assert [sorted(set(found.y[(found.latents == j) & (found.y != NULL)])) for j in BUDGETS] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [0, 1, 8, 9],
    ]


def test_the_summary_has_the_figures_of_the_set(found, recipe):
    summary = found.summary()
    assert summary.sha256 == found.digest
    assert (summary.states, summary.budgets, summary.classes, summary.seed) == (72, BUDGETS, 10, recipe.seed)
    assert summary.times == pytest.approx((1, 2 / 3, 1 / 3))


@pytest.mark.parametrize("kind", ["none", "cfg", "ccfg", "autoguidance"])
def test_the_states_lie_on_the_path_that_a_guided_run_takes(session, recipe, kind):
    """More trajectories than one call takes; the path is solved anew, and ends where `generate` does."""
    recipe = msgspec.structs.replace(recipe, guidance=kind, weak_latents=2, budgets=(1, 4), classes=9)
    found = take(session, recipe)
    labels = np.arange(9, 18) % 10
    noise = NoiseStream(recipe.seed, 18).draw((4, 16, 16))[9:]
    grid = times("euler", STEPS)

    def field(x, index, move):
        t = np.full(9, grid[index])
        strong = session.velocity(x, t, labels, move.latents)
        if kind == "none":
            return strong
        weak_labels = labels if kind == "autoguidance" else np.full(9, NULL)
        weak = session.velocity(x, t, weak_labels, move.latents if kind == "cfg" else move.weak_latents)
        return recipe.scale * strong - (recipe.scale - 1) * weak

    path = list(solve(field, noise, "euler", grid, [Move(step, 4, 2) for step in (1, 2, 3)]))
    for conditional in (True, False):
        chosen = (found.latents == 4) & ((found.y != NULL) == conditional)
        kept = found.x[chosen].reshape(STEPS, 9, 4, 16, 16)
        assert np.array_equal(kept[0], noise.astype(np.float32))
        for state, step in zip(kept[1:], path, strict=False):
            assert np.allclose(state, step.x, rtol=0, atol=1e-4)
    made = generate(session, labels, steps=STEPS, latents=4, solver="euler", guidance=kind, weak_latents=2, noise=noise)
    assert np.allclose(path[-1].x, made.samples, rtol=0, atol=1e-4)
    assert not np.allclose(path[0].x, noise, rtol=0, atol=1e-2), "steps move the state"


def test_a_state_that_is_not_finite_is_refused_with_its_budget_and_time(session, recipe, monkeypatch):
    real = type(session).velocity

    def broken(self, x, t, y, latents):
        v = real(self, x, t, y, latents)
        return v * np.float32(np.nan) if latents == 4 and t[0] < 0.7 else v

    monkeypatch.setattr(type(session), "velocity", broken)
    with pytest.raises(CalibrationError, match=r"4 latents.*t = 0\.333.*elit-edge verify"):
        take(session, recipe)


def test_progress_grows_to_one(session, recipe):
    shares = []
    collect(session, recipe, lambda _stage, share: shares.append(share), pytest.fail)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert 0 < shares[0] < 0.2


# --- what is kept


def test_another_process_takes_the_same_bytes(bundle, found):
    run = [sys.executable, "-c", SCRIPT, str(bundle.files.folder), str(STEPS)]
    printed = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == found.digest


def test_a_second_process_waits_for_its_turn_and_a_killed_one_is_gone_on_with(bundle, session, cache, taken):
    """SIGKILL after the first budget: the next run takes none of it again, and the set is that of an unbroken run."""
    steps = 100
    recipe = default_recipe(bundle.files, budgets=BUDGETS, steps=steps)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(bundle.files.folder), str(steps)])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not list(cache.rglob("latents_*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        with pytest.raises(RequestError, match="another elit-edge takes"):
            take(session, recipe)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, "it was to be killed in the middle"
    resumed = take(session, recipe)
    assert taken
    assert 0 not in taken
    shutil.rmtree(cache)
    assert take(session, recipe).digest == resumed.digest


def test_a_finished_set_is_not_taken_twice(session, recipe, found, taken):
    assert take(session, recipe).digest == found.digest
    assert take(session, recipe).digest == found.digest
    assert taken == [0, 1, 2]
    assert take(session, msgspec.structs.replace(recipe, seed=1)).digest != found.digest
    assert taken == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("damage", ["a bit", "cut off", "empty", "of another budget"])
def test_a_damaged_part_is_taken_again_and_said(session, recipe, found, cache, taken, damage):
    take(session, recipe)
    least, part, _ = sorted(cache.rglob("latents_*"))
    data = bytearray(part.read_bytes())
    if damage == "a bit":
        data[-1] ^= 1
    elif damage == "cut off":
        del data[-4:]
    elif damage == "empty":
        data.clear()
    else:
        data = least.read_bytes()
    part.write_bytes(data)
    words = []
    assert take(session, recipe, words.append).digest == found.digest
    assert taken == [0, 1, 2, 1]
    (word,) = words
    assert str(part) in word
    assert "taken again" in word


def test_a_cache_that_cannot_be_written_is_an_error_with_its_place(session, recipe, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(RequestError, match="cannot write to the cache"):
        take(session, recipe)


# --- the file


@pytest.fixture
def load(bundle, recipe):
    return lambda path: load_set(path, bundle.manifest, recipe.source_sha256)


@pytest.fixture
def members(found, recipe):
    """The arrays of a right file, to be changed."""
    return {
        "recipe": text(msgspec.json.encode(recipe, order="deterministic")),
        "x": found.x.copy(),
        "t": found.t.copy(),
        "y": found.y.copy(),
        "latents": found.latents.copy(),
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.npz"


def text(data: bytes):
    return np.frombuffer(data, np.uint8)


def forge(path, members, **other):
    """A file that numpy writes, with the digest that belongs to what is in it."""
    digest = hashlib.sha256(b"".join(members[name].tobytes() for name in ("recipe", "x", "t", "y", "latents")))
    np.savez(path, **{**members, "sha256": text(digest.hexdigest().encode()), **other})


def with_manifest(bundle, **changes):
    return type(bundle.files)(bundle.files.folder, msgspec.structs.replace(bundle.manifest, **changes))


def sit(bundle):
    model = msgspec.structs.replace(
        bundle.manifest.model, architecture="sit", head_depth=4, core_depth=0, tail_depth=0, group_size=1
    )
    sampler = msgspec.structs.replace(bundle.manifest.sampler, guidance="cfg")
    return {"model": model, "ladder": bundle.manifest.ladder[:1], "sampler": sampler}


def test_a_saved_set_is_read_as_it_was_and_numpy_reads_it_too(found, load, path, tmp_path):
    save_set(path, found, replace=False)
    read = load(path)
    assert read.recipe == found.recipe
    assert read.digest == found.digest
    for name in ("x", "t", "y", "latents"):
        values, wanted = getattr(read, name), getattr(found, name)
        assert values.dtype == wanted.dtype
        assert np.array_equal(values, wanted)
        assert np.array_equal(np.load(path)[name], wanted)
    with pytest.raises(RequestError, match="exists"):
        save_set(path, found, replace=False)
    save_set(tmp_path / "again.npz", found, replace=False)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_forged_file_that_is_right_is_read(members, load, path, found):
    """The control of all refusals below."""
    forge(path, members)
    assert load(path).digest == found.digest


def test_one_budget_is_enough_for_a_model_that_has_one(bundle, path):
    files = with_manifest(bundle, **sit(bundle))
    recipe = default_recipe(files, steps=1, classes=1)
    column = np.array([1, 1])
    made = CalibrationSet(
        recipe, np.ones((2, 4, 16, 16), np.float32), column.astype(np.float32), np.array([0, NULL]), column
    )
    save_set(path, made, replace=False)
    assert load_set(path, files.manifest, recipe.source_sha256).digest == made.digest


def refused(load, path, words):
    with pytest.raises(CalibrationError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "elit-edge calibrate BUNDLE, without --set" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no calibration set"),
        (b"words " * 1000, "no calibration set"),
        (b"\x93NUMPY\x01\x00" + bytes(500), "no calibration set"),
        (b"PK\x03\x04", "cut off"),
        (b"PK\x03\x04" + bytes(5000), "cut off"),
        (b"PK\x03\x04" + bytes(500) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 60000, 60000, 0, 0, 0), "60000 mem"),
        (b"PK\x03\x04" + bytes(500) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 6, 6, 400, 9, 0), "damaged"),
        (b"PK\x03\x04" + bytes(500) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 6, 6, 2**32 - 2, 9, 0), "damaged"),
    ],
)
def test_what_is_no_npz_is_refused(content, words, load, path):
    path.write_bytes(content)
    refused(load, path, words)


def test_what_is_no_file_is_refused(load, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "folder", "pipe"):
        refused(load, tmp_path / name, "there is no calibration set")
    refused(load, tmp_path / ("long" * 100), "cannot read the calibration set")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99, 0.9999])
def test_a_file_that_is_cut_off_is_refused(found, load, path, kept):
    save_set(path, found, replace=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    refused(load, path, "cut off")


def test_a_changed_byte_is_refused_wherever_it_is(found, load, path):
    save_set(path, found, replace=False)
    data = path.read_bytes()
    for place in np.linspace(4, len(data) - 1, 150).astype(int):
        changed = bytearray(data)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        try:
            read = load(path)
        except CalibrationError:
            continue
        assert read.digest == found.digest, f"byte {place}"  # a date, say


def test_missing_extra_and_double_members_are_refused(members, load, path):
    forge(path, members, notes=np.zeros(3))
    refused(load, path, "7 members")
    forge(path, {**members, "x": members["x"][:0]})
    with zipfile.ZipFile(path) as right:
        files = {name: right.read(name) for name in right.namelist()}
    for dropped, added, words in [
        ("t.npy", None, "5 members"),
        ("t.npy", "time.npy", "holds recipe, x, y"),
        ("t.npy", "../t.npy", "holds recipe, x, y"),
        ("t.npy", "x.npy", "holds recipe, x, y"),
    ]:
        with pytest.warns(UserWarning, match="Duplicate") if added == "x.npy" else contextlib.nullcontext():
            write_zip(path, {name: data for name, data in files.items() if name != dropped}, added)
        refused(load, path, words)


def write_zip(path, files, added=None, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if added is not None:
            archive.writestr(added, b"something")


def npy(values, **settings):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, **settings)
    return stream.getvalue()


def replace_member(path, name, data, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as right:
        files = {each: right.read(each) for each in right.namelist()}
    write_zip(path, {**files, f"{name}.npy": data}, compression=compression)


def test_a_bomb_is_refused_before_it_is_unpacked(members, load, path):
    forge(path, members)
    replace_member(path, "x", npy(np.zeros((20_000, 4, 16, 16), np.float32)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1e6
    tracemalloc.start()
    try:
        refused(load, path, "compressed")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["recipe", "x", "t", "y", "latents", "sha256"])
def test_a_member_that_is_too_large_is_refused_before_it_is_read(members, load, path, name):
    forge(path, members)
    replace_member(path, name, npy(np.zeros(3_000_000, np.uint8)))
    tracemalloc.start()
    try:
        refused(load, path, f"{name} has 3000128 bytes")
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()


def test_an_encrypted_member_is_refused(found, load, path):
    save_set(path, found, replace=False)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[entry + 8] |= 1
    path.write_bytes(data)
    refused(load, path, "encrypted")


class Pickled:
    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("x", lambda x: x.astype(np.float16), "float16"),
        ("x", lambda x: x[:, :, :8].astype(np.float64), "float64"),
        ("x", lambda x: x.astype(">f4"), ">f4"),
        ("x", np.asfortranarray, "Fortran"),
        ("x", lambda x: x[:-8], "x is float32 .64, 4, 16, 16."),
        ("x", lambda x: x[:0], "x is float32 .0, 4, 16, 16."),
        ("x", lambda x: x.reshape(72, 16, 4, 16), "72, 16, 4, 16"),
        ("x", np.ravel, "73728"),
        ("t", lambda t: t.astype(np.int32), "int32"),
        ("t", lambda t: t[:, None], "72, 1"),
        ("y", lambda y: y.astype(np.int32), "int32"),
        ("y", lambda _: np.zeros((), np.int64), r"int64 \[\]"),
        ("latents", lambda j: j.astype(np.uint64), "uint64"),
        ("sha256", lambda _: text(b"0" * 64), "does not match the digest"),
        ("sha256", lambda _: text(b"0" * 63), "sha256 is uint8 .63"),
        ("recipe", lambda _: np.array(["text"]), "recipe is <U4"),
    ],
)
def test_arrays_of_another_kind_are_refused(members, load, path, name, change, words):
    forge(path, members, **{name: change(members.get(name))})
    refused(load, path, words)


def test_nothing_is_unpickled(members, load, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forge(path, members, y=np.array([Pickled()] * 72, object))
    refused(load, path, "y is object")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        npy(np.zeros(72, np.float32), version=(2, 0)),
        npy(np.zeros(72, np.float32))[:-4],
        npy(np.zeros(72, np.float32)) + b"more",
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 117 + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': 'no', 'fortran_order': False, 'shape': (72,)}".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': 0, 'shape': (72,)}".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': -1}".ljust(117) + b"\n",
        b"\x93NUMPY\x01\x00\xff\xff" + b"{'descr': '<f4'",
    ],
)
def test_a_header_of_no_array_is_refused(members, load, path, data):
    forge(path, members)
    replace_member(path, "t", data)
    refused(load, path, r"set\.npz: t (is no array|has \d+ bytes of values)")


@pytest.mark.parametrize(
    ("name", "rows", "value", "words"),
    [
        ("x", 5, np.nan, "not finite, first in state 5 of 72"),
        ("x", (71, 3, 15, 15), np.inf, "not finite, first in state 71 of 72"),
        ("t", 0, 1.5, "t = 1.5 in state 0, where its recipe says 1.0"),
        ("t", 3, -0.1, "t = -0.1"),
        ("t", 70, np.nan, "t = nan in state 70"),
        ("y", 2, -1, "y = -1 in state 2"),
        ("y", 9, 11, "y = 11 in state 9"),
        ("y", 0, 5, "y = 5 in state 0, where its recipe says 0"),
        ("y", slice(None), NULL, "no state with a label"),
        ("y", slice(None), 3, "no state with the null label"),
        ("latents", 0, 0, "latents = 0 in state 0"),
        ("latents", 71, 17, "latents = 17 in state 71, where its recipe says 16"),
        ("latents", slice(None), 16, "latents = 16 in state 0"),
    ],
)
def test_values_that_no_state_has_are_refused(members, load, path, name, rows, value, words):
    members[name][rows] = value
    forge(path, members)
    refused(load, path, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": [16]}, r"latents \[16\] alone, and ranges move with the budget: .* at 1 and at 16 latents"),
        ({"budgets": [1, 4]}, r"latents \[1, 4\] alone"),
        ({"budgets": []}, "is empty"),
        ({"budgets": [1, 16, 16]}, "each once"),
        ({"budgets": [16, 4, 1]}, "each once"),
        ({"budgets": [1, 16, 17]}, "budgets are .1, 2, 3"),
        ({"source_sha256": "a" * 64}, "other weights.*digest aaaaaaaaaaaa, not "),
        ({"steps": 4}, "x is float32 .72, 4, 16, 16."),
        ({"steps": 10**15}, "x is float32"),
        ({"steps": 2, "classes": 6}, "t = 0.66"),
        ({"steps": 0}, "is none of a calibration set"),
        ({"scale": -1}, "is none of a calibration set"),
        ({"version": 2}, "is none of a calibration set"),
        ({"surprise": 2}, "is none of a calibration set"),
        ({"guidance": None}, "is none of a calibration set"),
    ],
)
def test_recipes_of_other_sets_are_refused(members, load, path, changes, words):
    fields = {**msgspec.json.decode(members["recipe"].tobytes()), **changes}
    forge(path, {**members, "recipe": text(msgspec.json.encode(fields))})
    refused(load, path, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 12}, "another model than bundle .*: num_classes 12, not 10; make"),
        ({"image_size": 32, "in_channels": 3}, "another model.*image_size 32, not 16; in_channels 3, not 4"),
        ({"hidden_size": 47}, "is none of a calibration set"),
        ({"mlp_ratio": 1e308}, "is none of a calibration set"),
    ],
)
def test_sets_of_other_models_are_refused(members, load, path, changes, words):
    fields = msgspec.json.decode(members["recipe"].tobytes())
    fields["model"] |= changes
    forge(path, {**members, "recipe": text(msgspec.json.encode(fields))})
    refused(load, path, words)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"version": 1e999}'])
def test_a_recipe_that_is_no_recipe_is_refused(members, load, path, data):
    forge(path, {**members, "recipe": text(data)})
    refused(load, path, "recipe")


def test_a_set_whose_states_were_changed_is_refused(found, load, path):
    changed = found.x.copy()
    changed[0, 0, 0, 0] += 1
    other = replace(found, x=changed)
    assert other.digest != found.digest
    save_set(path, other, replace=False)
    replace_member(path, "sha256", npy(text(found.digest.encode())))
    refused(load, path, "does not match the digest")
