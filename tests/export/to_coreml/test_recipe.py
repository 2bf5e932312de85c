from __future__ import annotations

import pytest

from elit_edge.errors import RequestError
from elit_edge.export.to_coreml.recipe import Recipe


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "npu"}, "unknown layout 'npu'; one of: gpu, ane"),
        ({"precision": "int8"}, "unknown precision 'int8'; one of: fp16, fp32"),
        ({"ios": 15}, "unknown iOS 15; one of: 16, 17, 18, 26"),
        ({"compression": "lut2"}, "unknown compression 'lut2'; one of: int8, lut6, lut4, w8a8, int4"),
        ({"compression": "int4", "ios": 17}, "--compress int4 needs --ios 18 or later: iOS 17 has no constexpr_block"),
        ({"compression": "w8a8", "ios": 16}, "--compress w8a8 needs --ios 17 or later: iOS 16 has no quantize"),
        ({"compression": "lut6", "precision": "fp32"}, "--compress lut6 goes with --precision fp16"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(RequestError) as caught:
        Recipe(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("ios", [16, 17, 18, 26])
@pytest.mark.parametrize("compression", ["int8", "lut6", "lut4"])
def test_these_go_with_every_ios(ios, compression):
    assert Recipe("gpu", "fp16", compression, ios).variant == compression


def test_the_variant_is_the_compression_or_the_precision():
    assert [Recipe(precision=p).variant for p in ("fp16", "fp32")] == ["fp16", "fp32"]


@pytest.mark.parametrize(("ios", "several"), [(16, False), (17, False), (18, True), (26, True)])
def test_packages_of_several_functions_began_with_ios_18(ios, several):
    assert Recipe(ios=ios).multifunction is several
