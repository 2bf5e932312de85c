"""Names of classes in a file of the user's."""

from __future__ import annotations

import json

import pytest

from elit_edge.errors import ConfigError
from elit_edge.model.class_names import read_class_names


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "names.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "sun\nmoon, Luna\nétoile ★",
        "sun\nmoon, Luna\nétoile ★\n\n",
        "sun \r\n moon, Luna\r\nétoile ★\r\n",
        b"\xef\xbb\xbfsun\nmoon, Luna\n\xc3\xa9toile \xe2\x98\x85",
        json.dumps(["sun", "moon, Luna", "étoile ★"]),
        "\n" + json.dumps(["sun", "moon, Luna", "étoile ★"], indent=1, ensure_ascii=False) + "\n",
    ],
)
def test_names_are_lines_or_a_json_list(content, written):
    assert read_class_names(written(content)) == ("sun", "moon, Luna", "étoile ★")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "class 0 has an empty name"),
        ("sun\n\nmoon", "class 1 has an empty name"),
        ('["sun", "  "]', "class 1 has an empty name"),
        ("sun\nmoon, , Luna", "class 1 has an empty name ('moon, , Luna')"),
        ("sun\nmoon\nstar\nmoon \n", "classes 1 and 3 are both 'moon'"),
        ("sun\nmoon".encode("utf-16"), "no UTF-8 text (byte 0)"),
        ("sun\ncaf\xe9".encode("latin-1"), "no UTF-8 text (byte 7)"),
        ('["sun", 3]', "no JSON list of names: Expected `str`, got `int`"),
        ('["sun", null]', "no JSON list of names: Expected `str`, got `null`"),
        ('{"0": "sun"}', "no JSON list of names: Expected `array`, got `object`"),
        ('["sun"', "no JSON list of names"),
        ("[" * 100_000, "no JSON list of names"),
    ],
)
def test_a_list_that_is_none_is_refused_with_its_place(content, fault, written):
    path = written(content)
    with pytest.raises(ConfigError) as caught:
        read_class_names(path)
    assert str(caught.value).startswith(f"class names {path}")
    assert fault in str(caught.value)


@pytest.mark.parametrize(("name", "fault"), [("none.txt", "No such file"), (".", "Is a directory")])
def test_what_is_no_file_is_refused(name, fault, tmp_path):
    with pytest.raises(ConfigError, match=f"class names .*: {fault}"):
        read_class_names(tmp_path / name)
