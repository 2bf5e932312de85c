from __future__ import annotations

import copy
import json
import random
import shutil
import sys

import numpy as np
import pytest

from elit_edge.errors import BundleError, ElitEdgeError, PackageError, RuntimeUnavailable
from elit_edge.export.mil import library
from elit_edge.export.mil.element_types import ELEMENT_TYPES
from elit_edge.export.mil.evaluator import MilFunction
from elit_edge.export.mil.program import unpack_bits
from elit_edge.export.mil.reading import MilPackage

MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture
def copied(packages, tmp_path):
    path = tmp_path / "copy.mlpackage"
    shutil.copytree(packages["fp16"], path)
    return path


def test_a_package_says_what_it_holds(packages):
    package = MilPackage.open(packages["fp16"])
    assert package.functions == ("tokens_3", "tokens_6")
    assert package.default_function == "tokens_3"
    assert package.specification_version == 9
    (given,), (made,) = package.inputs("tokens_6"), package.outputs("tokens_6")
    assert (given.name, given.element.name, given.shape) == ("x", "float32", (2, 6, 32))
    assert (made.name, made.element.name, made.shape) == ("out", "float32", (2, 6, 32))


def test_metadata(ct, packages, tmp_path):
    model = ct.models.MLModel(str(packages["fp16"]), skip_model_load=True)
    model.author, model.license, model.short_description, model.version = "A", "L", "S", "1"
    model.user_defined_metadata["elit.budgets"] = "3 6"
    model.save(str(tmp_path / "told.mlpackage"))
    told = MilPackage.open(tmp_path / "told.mlpackage").metadata
    own = {"author": "A", "license": "L", "short_description": "S", "version": "1", "elit.budgets": "3 6"}
    assert own.items() <= told.items()


def test_functions_share_the_bytes_of_their_weights(packages, mlp):
    package = MilPackage.open(packages["fp16"])
    shared, other = package.blob_offsets("tokens_3"), package.blob_offsets("tokens_6")
    assert len(shared) == 4  # coremltools adds a bias of zeros
    assert sorted(shared.values()) == sorted(other.values())
    file = (packages["fp16"] / WEIGHTS).read_bytes()
    place = next(offset for name, offset in shared.items() if name.startswith("narrow"))
    stored = np.frombuffer(file, np.float16, mlp.narrow.size, place + 64)
    np.testing.assert_array_equal(stored, mlp.narrow.astype(np.float16).reshape(-1))


def test_a_function_that_is_not_there(packages):
    package = MilPackage.open(packages["fp16"])
    with pytest.raises(PackageError, match="no function 'latents_07'; it has tokens_3, tokens_6"):
        package.program("latents_07")


def test_no_package(tmp_path):
    assert issubclass(PackageError, BundleError)
    with pytest.raises(PackageError, match="no package at"):
        MilPackage.open(tmp_path / "none.mlpackage")
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(PackageError, match=r"has no Manifest\.json"):
        MilPackage.open(tmp_path / "empty.mlpackage")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("Manifest.json", r"has no Manifest\.json"),
        (MODEL, r"has no Data/com\.apple\.CoreML/model\.mlmodel"),
        (WEIGHTS, r"weight\.bin, which is missing"),
    ],
)
def test_a_missing_part(copied, part, words):
    (copied / part).unlink()
    with pytest.raises(PackageError, match=words):
        MilPackage.open(copied)


@pytest.mark.parametrize("part", ["Manifest.json", MODEL, WEIGHTS])
def test_a_link_is_no_part(copied, tmp_path, part):
    (copied / part).replace(tmp_path / "elsewhere")
    (copied / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackageError, match="is a link"):
        MilPackage.open(copied)


@pytest.mark.parametrize("part", ["Manifest.json", MODEL])
def test_an_empty_part(copied, part):
    (copied / part).write_bytes(b"")
    with pytest.raises(PackageError, match="has 0 bytes"):
        MilPackage.open(copied)


def test_weights_cut_short(copied):
    file = copied / WEIGHTS
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(PackageError, match=r"ends at byte \d+ of @model_path/weights/weight\.bin, which has \d+"):
        MilPackage.open(copied)


def test_weights_without_their_header(copied):
    package = MilPackage.open(copied)
    file, offset = copied / WEIGHTS, min(package.blob_offsets("tokens_3").values())
    content = bytearray(file.read_bytes())
    content[offset : offset + 4] = b"\0\0\0\0"
    file.write_bytes(content)
    with pytest.raises(PackageError, match=f"at {offset} in @model_path/weights/weight.bin cannot be read"):
        MilFunction(MilPackage.open(copied), "tokens_3")


def test_a_blob_beyond_the_file(edited):
    def beyond(model):
        for value in constants(model):
            value.blobFileValue.offset += 1 << 40

    with pytest.raises(PackageError, match="ends at byte"):
        MilPackage.open(edited(beyond))


@pytest.mark.parametrize("name", ["@model_path/weights/../model.mlmodel", "/etc/hostname", "weight.bin"])
def test_weights_outside_the_package_are_not_read(edited, name):
    def elsewhere(model):
        for value in constants(model):
            value.blobFileValue.fileName = name

    with pytest.raises(PackageError, match="which is missing"):
        MilPackage.open(edited(elsewhere))


def constants(model):
    """Every value that stands in a weight file."""
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            for operation in block.operations:
                if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue"):
                    yield operation.attributes["val"]


def test_a_protobuf_cut_short(copied):
    file = copied / MODEL
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PackageError, match="no protobuf of a model"):
        MilPackage.open(copied)


def test_a_model_of_another_kind(ct, copied):
    model = ct.proto.Model_pb2.Model()
    model.identity.SetInParent()
    (copied / MODEL).write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="kind identity"):
        MilPackage.open(copied)


def test_a_program_without_functions(edited):
    with pytest.raises(PackageError, match="without functions"):
        MilPackage.open(edited(lambda model: model.mlProgram.functions.clear()))


def longer(model):
    model.description.functions[1].input[0].type.multiArrayType.shape[1] += 1


def renamed(model):
    model.description.functions[0].output[0].name = "v"


def other_type(model):
    model.description.functions[0].output[0].type.multiArrayType.dataType = 65552


@pytest.mark.parametrize(
    ("change", "words"),
    [(longer, "its description says"), (renamed, "its description v"), (other_type, "'float16'")],
)
def test_a_description_that_the_program_contradicts(edited, change, words):
    with pytest.raises(PackageError, match=words):
        MilPackage.open(edited(change))


def retyped(model):
    for value in constants(model):
        value.type.tensorType.dataType = 11  # float32


def cut_short(model):
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            del block.operations[-1]


def twice(model):
    for function in model.mlProgram.functions.values():
        for block in function.block_specializations.values():
            block.operations.append(block.operations[-1])


def states(model):
    for function in model.mlProgram.functions.values():
        held = copy.deepcopy(function.inputs[0].type)
        function.inputs[0].type.stateType.wrappedType.CopyFrom(held)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (retyped, "declared as another type"),
        (cut_short, "gives 'out', which nothing in it computes"),
        (twice, "names two values 'out'"),
        (states, "is of stateType; elit-edge evaluates tensors alone$"),
    ],
)
def test_a_program_that_contradicts_itself(edited, change, words):
    with pytest.raises(PackageError, match=words):
        MilPackage.open(edited(change))


@pytest.mark.parametrize("text", ["no json", "{}", '{"itemInfoEntries": {}, "rootModelIdentifier": "a"}', "[]"])
def test_a_manifest_that_names_no_model(copied, text):
    (copied / "Manifest.json").write_text(text)
    with pytest.raises(PackageError, match="does not name the model"):
        MilPackage.open(copied)


def test_a_manifest_that_leads_elsewhere(copied):
    manifest = json.loads((copied / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../other.mlmodel"
    (copied / "Manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"names '\.\./other\.mlmodel' as its model"):
        MilPackage.open(copied)


def test_whatever_is_damaged_the_error_is_one_of_ours(copied):
    """Bytes changed at random: an error that names the package, or a package that still computes something."""
    chance, refused = random.Random(0), 0
    good, x = (copied / MODEL).read_bytes(), np.zeros((2, 3, 32), np.float32)
    for _ in range(60):
        damaged = bytearray(good)
        damaged[chance.randrange(len(good))] = chance.randrange(256)
        (copied / MODEL).write_bytes(damaged)
        try:
            MilFunction(MilPackage.open(copied), "tokens_3", "stored")({"x": x})
        except ElitEdgeError:
            refused += 1
    assert refused > 40


@pytest.mark.parametrize("name", ["uint1", "uint2", "uint3", "uint4", "uint6", "int4", "int8", "uint8"])
def test_packed_numbers_come_back(ct, name):
    from coremltools.optimize._utils import pack_elements_into_bits

    element = ELEMENT_TYPES[name]
    signed = name.startswith("int")
    low = -(1 << element.bits - 1) if signed else 0
    numbers = np.arange(low, low + (1 << min(element.bits, 6)))[:37].astype(np.int8 if signed else np.uint8)
    packed = pack_elements_into_bits(numbers, element.bits).tobytes()
    found = unpack_bits(packed, element, len(numbers))
    np.testing.assert_array_equal(found, numbers)
    assert found.dtype == element.stored


def test_without_coremltools_the_remedy_is_named(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "coremltools", None)
    monkeypatch.setattr(library, "coremltools", library.coremltools.__wrapped__)
    monkeypatch.setattr("elit_edge.export.mil.reading.coremltools", library.coremltools)
    with pytest.raises(RuntimeUnavailable, match=r"pip install 'elit-edge\[coreml\]'"):
        MilPackage.open(packages["fp16"])
