"""Build the pictures that the sample model learns from: emoji of six open icon sets, two more held out.

The sets are packages of the npm registry (`@iconify-json/*`, one JSON of SVG bodies each); what an icon shows
follows from its code point, through `emojibase-data`. Only sets whose licence lets trained weights be passed on are
used for training (Apache-2.0 and MIT); the two held-out vendors (CC-BY-4.0) are looked at for evaluation alone.

Usage: python tools/emoji_dataset.py build/emoji     # writes train.npz and held_out.npz there; needs npm on PATH
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from PIL import Image
from rich.progress import track

SIDE = 96
"""Pixels a side of a stored picture: three times the model's, so that rotation and scale cost no sharpness."""

TRAINING_SETS = {
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "fxemoji": "1.2.2",
    "circle-flags": "1.2.11",
}
HELD_OUT_SETS = {"twemoji": "1.2.5", "emojione": "1.2.3"}
LABELS_PACKAGE = ("emojibase-data", "17.0.0")

CLASSES: dict[str, str | tuple[int, ...]] = {
    "smiley": (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    "animal": "🐵🐶🐺🦊🦝🐱🦁🐯🐴🦄🐮🐷🐗🐭🐹🐰🐻🐨🐼🐸🐲🐔🦓🦌🐻‍❄️🐥🐧🦉😺😸😹😻😼😽🙀😿😾",
    "heart": "❤️🩷🧡💛💚💙🩵💜🤎🖤🩶🤍💖💗💓💘💝💟❤️‍🔥❤️‍🩹💔♥️",
    "flower": "🌸🏵️🌹🥀🌺🌻🌼🌷🪻🪷💐",
    "fruit": (42,),
    "tree": "🌲🌳🌴🎄🪾",
    "house": "🏠🏡🏘️🏚️🏛️🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏯🏰💒🛖⛪🕌🛕🕍",
    "car": "🚗🚘🚙🚕🚖🚓🚔🚑🚒🚐🛻🚚🚛🏎️🚌🚍🚎🚜",
    "ball": "⚽⚾🥎🏀🏐🏈🏉🎾🎱🔮🪩",
    "moon": "🌑🌒🌓🌔🌕🌖🌗🌘🌙🌚🌛🌜🌝",
    "clock": "🕛🕧🕐🕜🕑🕝🕒🕞🕓🕟🕔🕠🕕🕡🕖🕢🕗🕣🕘🕤🕙🕥🕚🕦⏰🕰️",
    "flag": (),
}
"""A class is a list of emoji, or subgroups of emojibase; `flag` is the country files of circle-flags."""


def fetch(package: str, version: str, into: Path) -> dict[str, Any]:
    """Every JSON file of one npm package, by its path inside the package; the archive is kept in `into`."""
    archive = into / f"{package.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        subprocess.run(
            ["npm", "pack", "--silent", f"{package}@{version}"], cwd=into, check=True, stdout=subprocess.DEVNULL
        )
    with tarfile.open(archive) as files:
        wanted = [m for m in files.getmembers() if re.search(r"(icons|chars|en/data|unicode-names)\.json$", m.name)]
        return {m.name.removeprefix("package/"): json.load(stream) for m in wanted if (stream := files.extractfile(m))}


def code_points(emoji: str) -> str:
    """The emoji as hexadecimal code points joined by '-', without the presentation selector."""
    return "-".join(f"{ord(c):x}" for c in emoji if ord(c) != 0xFE0F)


def split_emoji(text: str) -> list[str]:
    """The single emoji of a run of them: joiners and presentation selectors stay with their neighbours."""
    return re.findall(r"(?:[^\u200d\ufe0f]\ufe0f?)(?:\u200d[^\u200d\ufe0f]\ufe0f?)*", text)


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def icon_names(files: dict[str, Any], bridge: dict[str, str], emojibase: dict[str, Any]) -> dict[str, str]:
    """Code points -> icon name of one set: from its own table where it has one, else by the emoji's known names."""
    icons = files["icons.json"]["icons"]
    if files.get("chars.json"):
        return {k: v for k, v in files["chars.json"].items() if v in icons}
    by_plain = {plain(name): name for name in icons}
    labels = {code_points(e["emoji"]): e["label"] for e in emojibase["en/data.json"]}
    unicode_names = {k.lower(): v for k, v in emojibase["meta/unicode-names.json"].items()}
    found: dict[str, str] = {}
    for code, label in labels.items():
        for name in (bridge.get(code, ""), label, unicode_names.get(code, ""), unicode_names.get(code + "-fe0f", "")):
            if name and plain(name) in by_plain:
                found.setdefault(code, by_plain[plain(name)])
    return found


def render(files: dict[str, Any], name: str) -> np.ndarray:
    """One icon on white: uint8 [SIDE, SIDE, 3]."""
    icons, icon = files["icons.json"], files["icons.json"]["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
    png = bytes(resvg_py.svg_to_bytes(svg_string=f"{head}{icon['body']}</svg>", width=SIDE, height=SIDE))
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return np.asarray(square.convert("RGB"))


def wanted_codes(emojibase: dict[str, Any]) -> dict[str, list[str]]:
    codes: dict[str, list[str]] = {}
    for name, members in CLASSES.items():
        if isinstance(members, str):
            codes[name] = [code_points(e) for e in split_emoji(members)]
        else:
            codes[name] = [code_points(e["emoji"]) for e in emojibase["en/data.json"] if e.get("subgroup") in members]
    return codes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    emojibase = fetch(*LABELS_PACKAGE, folder)
    codes = wanted_codes(emojibase)
    bridge = fetch("@iconify-json/noto", TRAINING_SETS["noto"], folder)["chars.json"]
    for split, sets in (("train", TRAINING_SETS), ("held_out", HELD_OUT_SETS)):
        images: list[np.ndarray] = []
        labels: list[int] = []
        sources: list[str] = []
        for vendor, version in sets.items():
            files = fetch(f"@iconify-json/{vendor}", version, folder)
            if vendor == "circle-flags":
                flags = [n for n in files["icons.json"]["icons"] if re.fullmatch(r"[a-z]{2}(-[a-z]{2,3})?", n)]
                chosen = [(list(CLASSES).index("flag"), n) for n in flags]
            else:
                names = icon_names(files, bridge, emojibase)
                chosen = [(i, names[c]) for i, n in enumerate(CLASSES) for c in codes[n] if c in names]
            for label, name in track(chosen, description=f"{split} {vendor}"):
                images.append(render(files, name))
                labels.append(label)
                sources.append(f"{vendor}/{name}")
        counts = np.bincount(labels, minlength=len(CLASSES))
        print(split, len(images), dict(zip(CLASSES, counts.tolist(), strict=True)))
        np.savez_compressed(
            folder / f"{split}.npz",
            images=np.stack(images),
            labels=np.array(labels, np.int64),
            sources=np.array(sources),
            class_names=np.array(list(CLASSES)),
        )


if __name__ == "__main__":
    main()
