"""What a bundle's decoder costs on each ready runtime of this device, and which of them is the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from elit_edge.bundle_files import BundleFiles
from elit_edge.decoding import DecoderCost
from elit_edge.errors import RuntimeUnavailable
from elit_edge.manifest import Decoder
from elit_edge.parity import DECODER_GATE_DB, psnr_db
from elit_edge.profiling.cache import Known, Report, cache_path, locked, read, write
from elit_edge.profiling.choosing import PassedOver
from elit_edge.profiling.decoder_worker import MeasuredDecoder
from elit_edge.profiling.own_process import WorkerFailed, answer_of
from elit_edge.runtimes.contract import Ready, Runtime
from elit_edge.runtimes.registry import all_runtimes, choose, state_of, words


@dataclass(frozen=True)
class DecoderCosts:
    """What was measured, the fastest first, and why other runtimes are not among them."""

    found: tuple[DecoderCost, ...]
    passed_over: tuple[PassedOver, ...]

    def fastest(self) -> DecoderCost:
        """Raises:
        RuntimeUnavailable: there is none.
        """
        if not self.found:
            raise RuntimeUnavailable("no runtime decodes here: " + "; ".join(lost.words() for lost in self.passed_over))
        return self.found[0]


def decoder_runtimes(decoder: Decoder, runtime: str) -> tuple[list[tuple[str, str]], list[PassedOver]]:
    """The runtimes, with their versions, that can compute a decoder here, ONNX Runtime first; and why others cannot.

    Args:
        decoder: of the bundle.
        runtime: one, or "auto" for all that are ready.

    Raises:
        RuntimeUnavailable: the one that was asked for is not ready, or none can.
    """
    named: dict[str, Runtime] = dict(all_runtimes()) if runtime == "auto" else {runtime: choose(runtime)}
    able: list[tuple[str, str]] = []
    passed_over: list[PassedOver] = []
    for name, backend in named.items():
        state = state_of(backend)
        if not isinstance(state, Ready):
            passed_over.append(PassedOver(name, None, words(state)))
        elif backend.decodes(decoder):
            able.append((name, state.version))
        else:
            passed_over.append(PassedOver(name, None, f"it does not compute the {decoder.kind} decoder"))
    if not able:
        DecoderCosts((), tuple(passed_over)).fastest()
    able.sort(key=lambda pair: pair[0] != "onnxruntime")
    return able, passed_over


def decoder_costs(
    files: BundleFiles,
    decoder: Decoder,
    *,
    runtime: str = "auto",
    threads: int | None = None,
    measure_missing: bool = True,
    report: Report = lambda _: None,
) -> DecoderCosts:
    """What a decoder costs on this device; measured once, in a process of its own for each runtime.

    Args:
        files: a checked bundle.
        decoder: one of its decoders.
        runtime: one, or "auto" for all that are ready.
        threads: CPU threads of one call; None leaves it to the runtimes.
        measure_missing: False reads the cache alone.
        report: told of each measurement.

    Raises:
        RuntimeUnavailable: the runtime that was asked for is not ready, or none can compute the decoder.
    """
    able, passed_over = decoder_runtimes(decoder, runtime)
    keys = {name: f"{name} {decoder.kind} {version} {threads or 'auto'}" for name, version in able}
    path = cache_path(files)
    if not measure_missing:
        return _judged(read(path, report), keys, decoder, passed_over)
    with locked(path, report) as writable:
        known = read(path, report)
        missing = {name: key for name, key in keys.items() if key not in known.decoders}
        for name, key in missing.items():
            report(f"measuring the {decoder.kind} decoder with {name} on this device (once)")
            settings = (str(files.folder), name, decoder.kind, str(threads or 0))
            try:
                answer = answer_of("elit_edge.profiling.decoder_worker", *settings)
            except WorkerFailed as error:
                passed_over.append(PassedOver(name, None, f"it failed when measured: {error}"))
            else:
                known.decoders[key] = msgspec.json.decode(answer, type=MeasuredDecoder)
        if writable and missing:
            write(path, known, report)
    return _judged(known, keys, decoder, passed_over)


def _judged(known: Known, keys: Mapping[str, str], decoder: Decoder, passed_over: Sequence[PassedOver]) -> DecoderCosts:
    """Leave out what does not compute what the first runtime does."""
    measured = [known.decoders[key] for key in keys.values() if key in known.decoders]
    found: list[DecoderCost] = []
    lost = list(passed_over)
    gate = DECODER_GATE_DB[decoder.precision]
    for each in measured:
        parity = psnr_db(np.array(each.pixels), np.array(measured[0].pixels))
        if each is not measured[0] and parity < gate:
            reason = f"{parity:.0f} dB from {measured[0].cost.runtime}, and the gate is {gate:.0f} dB"
            lost.append(PassedOver(each.cost.runtime, None, reason))
        else:
            found.append(each.cost)
    found.sort(key=lambda cost: cost.median_ms)
    return DecoderCosts(tuple(found), tuple(lost))
