"""Classes by name: what is found, what is ambiguous, and what is said of a miss."""

from __future__ import annotations

import pytest

from elit_edge.errors import RequestError
from elit_edge.labels import FEW, find, in_short
from elit_edge.model.class_names import imagenet_class_names

IMAGENET = imagenet_class_names()
KNOWN = {
    0: "tench",
    1: "goldfish",
    9: "ostrich",
    88: "macaw",
    207: "golden retriever",
    279: "Arctic fox",
    281: "tabby cat",
    291: "lion",
    340: "zebra",
    360: "otter",
    387: "red panda",
    388: "giant panda",
    404: "airliner",
    417: "balloon",
    467: "butcher shop",
    530: "digital clock",
    555: "fire engine",
    671: "mountain bike",
    779: "school bus",
    852: "tennis ball",
    920: "traffic light",
    933: "cheeseburger",
    949: "strawberry",
    954: "banana",
    963: "pizza",
    974: "geyser",
    980: "volcano",
    985: "daisy",
    999: "toilet tissue",
}
"""Places that are known from the use of ImageNet's labels everywhere, not from the file."""
TOOLS = ("drill, power drill", "Drill, mandrill", "saw", "saw", "7", "rip saw, saw")


def refusal(wanted, names=IMAGENET):
    with pytest.raises(RequestError) as caught:
        find(wanted, names, len(names))
    return str(caught.value)


def test_imagenet_has_a_thousand_different_names():
    assert len(set(IMAGENET)) == len(IMAGENET) == 1000
    assert all(each and each == each.strip() for name in IMAGENET for each in name.split(", "))


@pytest.mark.parametrize(("number", "name"), KNOWN.items())
def test_a_class_of_imagenet_is_found_by_a_name_in_any_case_and_by_its_number(number, name):
    assert [find(each, IMAGENET, 1000) for each in (name, name.upper(), number, str(number))] == [number] * 4


@pytest.mark.parametrize(
    ("wanted", "number"),
    [("Tinca tinca", 0), ("tench, Tinca tinca", 0), ("TENCH, tinca TINCA", 0), ("Alsatian", 235), ("harp", 594)],
)
def test_a_whole_name_or_a_synonym_is_a_name(wanted, number):
    assert find(wanted, IMAGENET, 1000) == number


@pytest.mark.parametrize(
    ("wanted", "both"),
    [
        ("crane", ("134 (crane, crane bird)", "517 (crane, construction crane)")),
        ("maillot", ("638 (maillot, dance tights)", "639 (maillot, tank suit)")),
        ("Cardigan", ("264 (Cardigan, Cardigan Welsh corgi)", "474 (cardigan)")),
        ("Harp", ("593 (harmonica, mouth organ, harp, mouth harp)", "594 (harp)")),
    ],
)
def test_a_name_of_two_classes_is_refused_with_both(wanted, both):
    assert refusal(wanted) == f"label {wanted!r} means 2 classes: {'; '.join(both)}; give a number or another name"


@pytest.mark.parametrize(
    ("wanted", "number"), [("crane bird", 134), ("construction crane", 517), ("dance tights", 638)]
)
def test_what_is_ambiguous_can_be_said_in_words(wanted, number):
    assert find(wanted, IMAGENET, 1000) == number


@pytest.mark.parametrize(("wanted", "number"), [("drill, power drill", 0), ("mandrill", 1), ("7", 4), ("1", 1)])
def test_a_whole_name_goes_before_a_number_and_a_number_before_a_synonym(wanted, number):
    assert find(wanted, (*TOOLS, "one, 1", "eight"), 8) == number


def test_two_classes_of_the_same_name_are_ambiguous():
    assert "means 3 classes: 2 (saw); 3 (saw); 5 (rip saw, saw)" in refusal("saw", TOOLS)


def test_a_name_of_very_many_classes_is_refused_with_a_few():
    message = refusal("thing", tuple(f"thing, {number}th" for number in range(1000)))
    assert "means 1000 classes: 0 (thing, 0th); 1 (thing, 1th);" in message
    assert "; and 995 more;" in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        ("golden retreiver", "golden retriever (207)"),
        ("GOLDEN RETREIVER", "golden retriever (207)"),
        ("zebras", "zebra (340)"),
        ("cheese burger", "cheeseburger (933)"),
        ("Tinca tinka", "tench (0)"),
        ("Labrador", "Labrador retriever (208)"),
        ("retriever", "flat-coated retriever (205), curly-coated retriever (206), golden retriever (207), Labrador"),
        ("burger", "cheeseburger (933)"),
    ],
)
def test_a_miss_names_the_nearest(wanted, first):
    message = refusal(wanted)
    assert message.startswith(f"unknown label {wanted!r}; nearest: {first}")
    assert message.endswith("; give a name or a number from 0 to 999")
    assert message.count("(") <= 5


@pytest.mark.parametrize("wanted", ["", " ", "qqqqqq", "1000", "-1", -1, 1000, None, 1.0, "x" * 5000])
def test_a_miss_that_is_near_nothing_says_where_the_names_stand(wanted):
    assert refusal(wanted) == (
        f"unknown label {wanted!r}; give a name (elit-edge inspect BUNDLE --json lists them) or a number from 0 to 999"
    )


@pytest.mark.parametrize(
    ("count", "words"),
    [(FEW, "give one of: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11; or a number"), (FEW + 1, "give a name (")],
)
def test_few_names_are_all_told_and_many_are_not(count, words):
    assert words in refusal("zebra", tuple(f"c{number}, class {number}" for number in range(count)))


def test_many_names_in_short():
    assert in_short(IMAGENET) == "1000: tench, goldfish, great white shark ... toilet tissue"
    assert in_short(IMAGENET[:2]) == "tench, goldfish"
