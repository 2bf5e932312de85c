"""The manifest as text: what it holds survives, what it does not know is refused."""

import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elit_edge.errors import BundleError, ElitEdgeError, RequestError
from elit_edge.manifest import (
    Budget,
    FileEntry,
    Graph,
    Manifest,
    Provenance,
    SamplerDefaults,
    TensorSpec,
    Verification,
    WorstCase,
    decode,
    encode,
)
from elit_edge.model_config import ModelConfig

X = TensorSpec(name="x", dtype="float32", shape=("batch", 3, 8, 8))
LATENTS = TensorSpec(name="latents", dtype="int64", shape=("latents",))
REMEDY = "export the bundle again"


def graph(role, latents=None, precision="fp32"):
    return Graph(
        role=role,
        precision=precision,
        latents=latents,
        path=f"onnx/{precision}_{role}_{latents}.onnx",
        weights="onnx/weights.safetensors",
        inputs=(X,) if latents else (X, LATENTS),
        outputs=(X,),
    )


def manifest(**changes):
    model = ModelConfig(
        architecture="elit-sit",
        image_size=8,
        in_channels=3,
        patch_size=2,
        hidden_size=4,
        num_heads=2,
        mlp_ratio=4.0,
        head_depth=1,
        core_depth=1,
        tail_depth=0,
        group_size=2,
        num_classes=3,
        class_names=("sun", "2", "étoile ★"),
    )
    fields = {
        "name": "sky",
        "model": model,
        "sample_space": "pixels",
        "ladder": (Budget(latents=2, velocity_flops=700), Budget(latents=4, velocity_flops=900)),
        "graphs": (graph("condition"), graph("velocity"), graph("velocity", 4), graph("velocity", precision="fp16")),
        "files": {"onnx/b": FileEntry(sha256="b" * 64, bytes=0), "onnx/a": FileEntry(sha256="a" * 64, bytes=1 << 40)},
        "sampler": SamplerDefaults(),
        "verification": Verification(
            gate_db=60.0,
            cases=9,
            runtime="onnxruntime 1.23",
            worst=WorstCase(graph="g", latents=2, t=0.25, label=3, psnr_db=101.5, relative_l2=1e-6),
        ),
        "provenance": Provenance(
            source="sky.pt",
            source_sha256="0" * 64,
            elit_edge="0.1.0",
            torch="2.9",
            onnx_ir="1",
            onnxscript="1",
            opset=23,
        ),
    }
    return Manifest(**{**fields, **changes})


def unnamed():
    """The same with a model whose classes have no names."""
    whole = manifest()
    return msgspec.structs.replace(whole, model=msgspec.structs.replace(whole.model, class_names=None))


def edited(*path, value=None, drop=False):
    """The manifest's JSON with one value at a path replaced, added or dropped."""
    whole = json.loads(encode(manifest()))
    place = whole
    for key in path[:-1]:
        place = place[key]
    if drop:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(whole).encode()


def refused(data, advice):
    with pytest.raises(BundleError, match=advice) as caught:
        decode(data, "sky.elit/manifest.json")
    assert str(caught.value).startswith("sky.elit/manifest.json"), "an error names its file"


@pytest.mark.parametrize("whole", [manifest(), unnamed(), manifest(verification=None, files={})])
def test_a_manifest_comes_back_from_its_text_as_it_was(whole):
    assert decode(encode(whole), "here") == whole


text = st.text('ab1 "\\/\n\0é★🙂', max_size=20)
number = st.floats(allow_nan=False, allow_infinity=False)
positive = st.integers(1, 2**63 - 1)


@settings(deadline=None, max_examples=60)
@given(
    name=text,
    files=st.dictionaries(text, st.builds(FileEntry, sha256=st.just("9" * 64), bytes=st.integers(0, 2**63 - 1))),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1) | text).map(tuple),
    sampler=st.builds(SamplerDefaults, scale=number.filter(lambda x: x >= 0), steps=positive),
    worst=st.builds(
        WorstCase, graph=text, latents=positive, t=number, label=positive, psnr_db=number, relative_l2=number
    ),
)
def test_any_names_and_numbers_come_back_as_they_were(name, files, shape, sampler, worst):
    spec = TensorSpec(name=name, dtype="int64", shape=shape)
    graphs = (msgspec.structs.replace(graph("model"), inputs=(spec,)),)
    check = Verification(gate_db=60.0, cases=1, runtime=name, worst=worst)
    whole = manifest(name=name, files=files, graphs=graphs, sampler=sampler, verification=check)
    assert decode(encode(whole), "here") == whole


def test_the_text_is_json_that_a_person_can_read():
    data = encode(manifest())
    lines = data.decode().splitlines()
    assert data.endswith(b"}\n")
    assert (lines[0], lines[1]) == ("{", ' "schema_version": 1,')
    found = json.loads(data)
    assert found["model"]["class_names"] == ["sun", "2", "étoile ★"]
    assert found["files"]["onnx/a"] == {"sha256": "a" * 64, "bytes": 1 << 40}
    assert "étoile ★" in data.decode()


def test_the_same_content_gives_the_same_bytes_whatever_the_order_it_came_in():
    whole = manifest()
    backwards = manifest(files=dict(reversed(whole.files.items())))
    assert backwards == whole
    assert encode(backwards) == encode(whole)


def test_what_has_a_default_may_be_left_out():
    assert decode(edited("graphs", 0, "format", drop=True), "here") == manifest()
    assert decode(edited("sampler", value={}), "here").sampler == SamplerDefaults()


@pytest.mark.parametrize(
    "place",
    [
        ("new",),
        ("model", "new"),
        ("ladder", 0, "new"),
        ("graphs", 1, "new"),
        ("graphs", 1, "inputs", 0, "new"),
        ("files", "onnx/a", "new"),
        ("sampler", "new"),
        ("verification", "new"),
        ("verification", "worst", "new"),
        ("provenance", "new"),
    ],
    ids=str,
)
def test_an_unknown_field_is_refused(place):
    refused(edited(*place, value=1), rf"unknown field `new`.*{REMEDY}")


@pytest.mark.parametrize(
    "place",
    [
        ("name",),
        ("model",),
        ("model", "image_size"),
        ("ladder",),
        ("graphs",),
        ("graphs", 0, "weights"),
        ("files",),
        ("files", "onnx/a", "sha256"),
        ("sampler",),
        ("verification",),
        ("provenance", "source_sha256"),
    ],
    ids=str,
)
def test_a_missing_field_is_refused(place):
    refused(edited(*place, drop=True), rf"missing required field `{place[-1]}`.*{REMEDY}")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("name",), 7),
        (("name",), None),
        (("model",), []),
        (("model", "image_size"), "8"),
        (("model", "image_size"), 8.5),
        (("model", "image_size"), 0),
        (("model", "architecture"), "dit"),
        (("sample_space",), "audio"),
        (("ladder", 0, "latents"), 0),
        (("ladder", 0, "velocity_flops"), -1),
        (("graphs",), {}),
        (("graphs", 0, "role"), "decoder"),
        (("graphs", 0, "format"), "coreml"),
        (("graphs", 0, "precision"), "fp8"),
        (("graphs", 0, "latents"), 0),
        (("graphs", 0, "path"), ["onnx"]),
        (("graphs", 0, "inputs", 0, "dtype"), "complex64"),
        (("graphs", 0, "inputs", 0, "shape"), [1.5]),
        (("files",), []),
        (("files", "onnx/a", "bytes"), -1),
        (("files", "onnx/a", "bytes"), True),
        (("files", "onnx/a", "sha256"), "A" * 64),
        (("files", "onnx/a", "sha256"), "a" * 63),
        (("files", "onnx/a", "sha256"), ""),
        (("sampler", "solver"), "rk4"),
        (("sampler", "guidance"), "cfgg"),
        (("sampler", "scale"), -0.5),
        (("sampler", "steps"), 0),
        (("verification",), False),
        (("provenance", "opset"), "23"),
    ],
    ids=str,
)
def test_a_value_of_another_type_or_range_is_refused_with_its_place(place, value):
    where = ".".join(["$", *map(str, place)]).replace(".0", "[0]").replace("onnx/a", "[...]").replace(".[", "[")
    refused(edited(*place, value=value), rf"{re.escape(where)}(\[0\])?`.*{REMEDY}")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("patch_size", 3, "not a multiple of patch_size 3"),
        ("group_size", 100, "do not divide into groups of 100"),
        ("num_heads", 3, "num_heads 3"),
        ("class_names", ["sun"], "1 class_names for num_classes 3"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(field, value, problem):
    refused(edited("model", field, value=value), rf"{problem}.*{REMEDY}")


@pytest.mark.parametrize("version", [0, 2, 10**40, -1, 1.5, "1", "2026", None, [1], {"major": 1}])
def test_another_schema_version_is_refused_by_name(version):
    refused(edited("schema_version", value=version), rf"schema version .*reads 1; {REMEDY}")


@pytest.mark.parametrize("version", [1.0, True])
def test_a_version_that_only_resembles_this_one_is_refused(version):
    refused(edited("schema_version", value=version), REMEDY)


def test_a_manifest_without_version_is_refused():
    refused(edited("schema_version", drop=True), rf"schema version .*reads 1; {REMEDY}")


def test_another_version_is_named_even_where_the_rest_is_unknown():
    """The user of an old elit-edge learns what is wrong, not which field it does not know."""
    refused(b'{"schema_version": 2, "shape": "of the future"}', r"schema version 2, this elit-edge reads 1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" \n",
        b"no json",
        b"null",
        b"1",
        b"[]",
        b'"schema_version"',
        b"{",
        b'{"schema_version": 1',
        b'{"schema_version": 1,}',
        b'{"schema_version": NaN}',
        b'{"schema_version": 1}\n{"schema_version": 1}',
        b"\xff\xfe{\x00}\x00",
        b'{"schema_version": 1, "name": "\xff"}',
        b'{"schema_version": 1, "name": "\\ud800"}',
        b"PK\x03\x04" + bytes(100),
        bytes(1000),
    ],
)
def test_what_is_no_manifest_is_refused(data):
    refused(data, REMEDY)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"schema_version":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"schema_version":1,"name":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"schema_version":1,"unknown":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    ],
    ids=["open lists", "open objects", "version", "name", "unknown"],
)
def test_deep_nesting_is_refused(data):
    refused(data, REMEDY)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_change_of_one_value_gets_past_as_anything_but_a_manifest_or_its_error(data):
    whole = json.loads(encode(manifest()))
    place = whole
    while True:
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(json_values)
    try:
        found = decode(json.dumps(whole).encode(), "here")
    except ElitEdgeError as error:
        assert type(error) is BundleError  # noqa: PT017 - most changes raise, some do not
    else:
        assert isinstance(found, Manifest)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=50) | text.map(str.encode))
def test_no_bytes_raise_anything_but_the_error_of_a_bundle(data):
    refused(data, REMEDY)


def test_a_manifest_knows_its_budgets_and_precisions():
    whole = manifest()
    assert whole.latents_per_group == 4
    assert whole.budgets == (2, 4)
    assert whole.precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("wanted", "label"),
    [("sun", 0), ("étoile ★", 2), (0, 0), (2, 2), ("0", 0), ("1", 1), ("2", 1)],
    ids=ascii,
)
def test_a_label_is_found_by_name_then_by_number(wanted, label):
    """One class is called "2": a name goes before a number."""
    assert manifest().label(wanted) == label


@pytest.mark.parametrize(
    "wanted", [3, -1, "3", "-1", "+1", "1.0", "1e0", " 1", "²", " sun", "", "étoile", "9" * 5000, 10**30, 1.0, None]
)
def test_an_unknown_label_is_refused_with_the_names_there_are(wanted):
    with pytest.raises(RequestError, match="one of: sun, 2, étoile ★; or a number from 0 to 2"):
        manifest().label(wanted)


@pytest.mark.parametrize("wanted", ["sun", 3, "3"])
def test_where_classes_have_no_names_the_numbers_are_told(wanted):
    with pytest.raises(RequestError, match="give a number from 0 to 2"):
        unnamed().label(wanted)


def test_a_graph_is_found_by_role_precision_and_budget():
    whole = manifest()
    assert whole.graph("velocity", "fp32") is whole.graphs[1]
    assert whole.graph("velocity", "fp32", 4) is whole.graphs[2]
    assert whole.graph("velocity", "fp16") is whole.graphs[3]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("model", "fp32"), "no fp32 model graph for any number of latents"),
        (("velocity", "fp32", 2), "no fp32 velocity graph for 2 latents"),
        (("condition", "fp16"), "no fp16 condition graph for any number of latents"),
    ],
)
def test_a_graph_that_is_not_there_is_refused_with_those_there_are(asked, words):
    with pytest.raises(BundleError, match=rf"{words}; it has: .*fp32 velocity \(4\), fp16 velocity \(any\)"):
        manifest().graph(*asked)
