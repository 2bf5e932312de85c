"""Partial downloads: real files of torch.save and of safetensors, cut at many places, held to their true sizes."""

from __future__ import annotations

import argparse
import io
import pickle
import random
import re
import struct
import zipfile

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from elit_edge.errors import CheckpointError
from elit_edge.model.checkpoint import read_checkpoint
from elit_edge.model.incomplete import shortfall
from elit_edge.model.torch_archive import MOST_PICKLE_BYTES, Length, expected_length

FIRST_HEADER = 64


class Beginning(io.BytesIO):
    """The first bytes of a sparse file of many gigabytes, without a copy of it."""

    def __init__(self, path, size):
        self.file, self.size, self.place = path.open("rb"), size, 0

    def seek(self, offset, whence=io.SEEK_SET):
        self.place = offset + (self.size if whence == io.SEEK_END else 0)
        return self.place

    def read(self, count=-1):
        self.file.seek(self.place)
        found = self.file.read(max(0, min(count, self.size - self.place)))
        self.place += len(found)
        return found

    def close(self):
        self.file.close()
        super().close()


def weights_of(sizes, dtypes=(torch.float32,)):
    return {f"blocks.{i}.weight": torch.ones(size, dtype=dtypes[i % len(dtypes)]) for i, size in enumerate(sizes)}


def training_state(weights):
    """A checkpoint as training leaves it: the same storages twice, an optimiser, settings."""
    return {
        "model": weights,
        "ema": {name: value.clone() for name, value in weights.items()},
        "opt": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(5)}}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="SiT-XL/2", seed=0),
        "steps": 1234,
        "tied": weights,
    }


def saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def of_cut(whole, length):
    return expected_length(io.BytesIO(whole[:length]))


def pickle_end(whole):
    """Where the first record and what belongs to it end: there the second header stands."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.infolist()[1].header_offset


ALL_DTYPES = [
    *[torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8],
    *[torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.float8_e4m3fn],
]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=25),
    dtypes=st.lists(st.sampled_from(ALL_DTYPES), min_size=1, max_size=5),
    share=st.floats(0, 1),
)
@example(sizes=[0], dtypes=[torch.float32], share=0.999)
@example(sizes=[1] * 25, dtypes=ALL_DTYPES, share=0.5)
def test_a_cut_file_of_any_tensors_says_its_true_length(sizes, dtypes, share):
    whole = saved(training_state(weights_of(sizes, dtypes)))
    first = pickle_end(whole) + 200
    cut = min(first + int(share * (len(whole) - first)), len(whole) - 1)
    assert of_cut(whole, cut) == Length(len(whole), exact=True)


def test_a_cut_at_every_byte_promises_no_more_than_is_missing():
    whole = saved(training_state(weights_of([3, 200, 0, 17])))
    for cut in range(FIRST_HEADER, len(whole)):
        found = of_cut(whole, cut)
        assert cut < found.bytes <= len(whole), cut
        assert not found.exact or found.bytes == len(whole), cut
        assert found.exact or cut < pickle_end(whole) + 250, cut


@pytest.mark.parametrize("name", ["checkpoint.pt", "a longer name of the same checkpoint, 0001000.pt", "ü.pt"])
def test_files_of_megabytes_are_cut_and_name_what_is_missing(tmp_path, name):
    path = tmp_path / name
    torch.save(training_state(weights_of([1_000_000, 11, 300_000])), path)
    whole = path.read_bytes()
    for cut in random.Random(5).sample(range(len(whole) // 100, len(whole)), 20):
        path.write_bytes(whole[:cut])
        missing = len(whole) - cut
        said = (
            f"it has {cut} of {len(whole)} bytes, {missing} ({missing / len(whole):.1%}) are missing; download it again"
        )
        with pytest.raises(CheckpointError, match=re.escape(f"{path} is a partial download: {said}")):
            read_checkpoint(path)


@pytest.mark.parametrize(("protocol", "understood"), [(2, True), (3, True), (4, False)])
def test_a_protocol_of_pickle_that_nobody_asks_torch_for_says_nothing(protocol, understood):
    whole = saved(training_state(weights_of([30_000, 5])), pickle_protocol=protocol)
    assert of_cut(whole, len(whole) // 2) == (Length(len(whole), exact=True) if understood else None)


def test_storages_and_places_beyond_four_gibibytes_are_written_otherwise_and_counted_so(tmp_path):
    path = tmp_path / "large.pt"
    tensors = [torch.empty(size, dtype=torch.uint8) for size in (2**32 - 1, 2**32 + 5, 0, 7, 2**31)]
    with path.open("wb") as stream, torch.serialization.skip_data():
        torch.save(tensors, stream)
    size = path.stat().st_size
    assert size > 10e9
    for cut in [5000, 2**31, 2**32 - 1, 2**32 + 10_000, 3 * 2**32 - 1, size - 500, size - 90, size - 1]:
        with Beginning(path, cut) as beginning:
            assert expected_length(beginning) == Length(size, exact=True), cut


def written_in_the_old_order(content):
    """By the writer of zip files that this torch has, which ends a file with its identity."""
    with zipfile.ZipFile(io.BytesIO(saved(content))) as archive:
        records = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stream)
    data = sorted(name for name in records if name.startswith("data/"))
    for name in ["data.pkl", "byteorder", *data]:
        writer.write_record(name, records[name], len(records[name]))
    writer.write_end_of_file()
    return stream.getvalue()


def test_an_older_layout_promises_no_more_than_its_shortest_form():
    """Its beginning does not say whether it ends with an identity, which takes some hundred bytes."""
    whole = written_in_the_old_order(weights_of([100, 3, 50, 8, 9, 1, 2, 3, 4, 5, 6, 7]))
    for cut in range(pickle_end(whole) + 200, len(whole) - 700, 97):
        found = of_cut(whole, cut)
        assert len(whole) - 500 < found.bytes <= len(whole)
    assert of_cut(whole, len(whole) - 1) == Length(len(whole), exact=True)


def test_a_cut_inside_the_pickle_counts_the_storages_that_it_has_named():
    whole = saved(weights_of([1000] * 40))
    found = of_cut(whole, 2000)
    assert not found.exact
    assert 4000 * 10 < found.bytes < len(whole)


def test_an_estimate_is_called_one(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(saved(weights_of([1000] * 40))[:2000])
    with pytest.raises(CheckpointError, match=r"it has 2000 bytes, and at least \d{6} are missing; download it again"):
        read_checkpoint(path)


# Whole files, and files that are none of torch's


@pytest.mark.parametrize("damage", ["none", "storage", "pickle", "index"])
def test_a_file_of_full_length_lacks_nothing(tmp_path, damage):
    content = bytearray(saved(weights_of([1000, 10])))
    place = {"none": -1, "storage": len(content) // 2, "pickle": 100, "index": len(content) - 400}[damage]
    content[place] ^= 0 if damage == "none" else 0xFF
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    assert shortfall(path) is None


def test_a_file_of_full_length_whose_end_is_not_there_yet_is_called_damaged(tmp_path):
    """Some downloaders take the whole place before they fill it."""
    whole = saved(weights_of([1000, 10]))
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(whole[:3000] + bytes(len(whole) - 3000))
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        read_checkpoint(path)


def archive_of(pickled, name=b"checkpoint/data.pkl"):
    """The beginning of an archive: one header and a pickle."""
    return struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0, 0, 0, 0, 0, 0, 0, len(name), 0) + name + pickled


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle ran",)


def persistent(kind="torch FloatStorage", count=b"K\x05"):
    """The opcodes of a storage's id."""
    module, _, name = kind.partition(" ")
    identity = (
        b"(X\x07\x00\x00\x00storage" + f"c{module}\n{name}\n".encode() + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    return b"\x80\x02" + identity + count + b"tQ."


HOSTILE = {
    "code": pickle.dumps(Bomb(), 2),
    "a storage of 2 ** 2000 numbers": persistent(count=b"\x8a\xfb" + bytes(250) + b"\x01"),
    "a storage of fewer than no numbers": persistent(count=b"J\xff\xff\xff\xff"),
    "a storage of an unknown kind": persistent("os system"),
    "no storage": b"\x80\x02K\x01Q.",
    "nothing on the stack": b"\x80\x02Q.",
    "an empty memo": b"\x80\x02q\x00h\x05.",
    "a length beyond the file": b"\x80\x02X\xff\xff\xff\x7fabc",
    "a length beyond all memory": b"\x80\x04\x8d" + b"\xff" * 8 + b"abc",
    "a number as text": b"I" + b"9" * 100_000 + b"\n.",
    "text that is none": b"X\x02\x00\x00\x00\xff\xff.",
    "a place in the memo beyond all memory": b"K\x01r\xff\xff\xff\xff.",
    "tuples of tuples": b"(t" + b"q\x00h\x00\x86" * 10_000 + b".",
    "no end": b"}" * (MOST_PICKLE_BYTES + 10),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_scanned_and_not_run(tmp_path, pickled):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(archive_of(pickled))
    with pytest.raises(CheckpointError, match="download it again") as caught:
        read_checkpoint(path)
    assert len(str(caught.value)) < 1000


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_bytes_of_any_kind_give_a_length_or_none(data):
    whole = bytearray(saved(training_state(weights_of([9, 5]))))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 255)), max_size=20)):
        whole[place] = value
    cut = data.draw(st.integers(0, len(whole)))
    found = expected_length(io.BytesIO(bytes(whole[:cut])))
    assert found is None or found.bytes >= 0


@pytest.mark.parametrize("start", [b"PK", b"PK\x03\x04", archive_of(b"")[:40], archive_of(b"", b"notes.txt")])
def test_the_beginning_of_another_zip_says_nothing(start):
    assert expected_length(io.BytesIO(start)) is None


# Safetensors


def test_safetensors_cut_anywhere_say_their_true_length(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights_of([3, 200, 17]), path, metadata={"format": "pt"})
    whole = path.read_bytes()
    data = 8 + int.from_bytes(whole[:8], "little")
    for cut in range(9, len(whole)):
        path.write_bytes(whole[:cut])
        missing = len(whole) - cut if cut >= data else data - cut
        said = (
            f"it has {cut} of {len(whole)} bytes, {missing} ({missing / len(whole):.1%}) are missing"
            if cut >= data
            else f"it has {cut} bytes, and at least {missing} are missing"
        )
        assert shortfall(path) == f"is a partial download: {said}; download it again"
    with pytest.raises(CheckpointError, match=f"is a partial download: it has {len(whole) - 1} of {len(whole)} bytes"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"data_offsets": [0, 1e400]}}',
        b'{"a": {"data_offsets": [0, ' + b"9" * 5000 + b"]}}",
        b'{"a":' + b"[" * 100_000,
        b'{"\xff": {}}',
    ],
    ids=["open", "list", "number", "infinite", "endless", "deep", "no text"],
)
def test_a_header_that_says_nothing_is_damage(tmp_path, header):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert shortfall(path) is None


def test_a_header_longer_than_any_is_damage(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes((10**9).to_bytes(8, "little") + b"{}")
    assert shortfall(path) is None
