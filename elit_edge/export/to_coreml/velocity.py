"""The velocity as a MIL function: the model's own order of parts, in the words of a layout."""

from __future__ import annotations

from collections.abc import Iterator

from elit_edge.export.to_coreml.layout import Layout, Var
from elit_edge.model.layers import Block
from elit_edge.model.transformer import Read


def write_velocity(layout: Layout, x: Var, modulations: Var, latents: int) -> Var:
    """x [B, C, S, S], modulations of the layout's shape -> the velocity [B, C, S, S] at that many latents a group."""
    config = layout.config
    vectors = iter(layout.vectors(modulations))
    depth = iter(range(config.depth))

    def run(tokens: Var, count: int) -> Var:
        for _ in range(count):
            tokens = _block(layout, tokens, next(depth), vectors)
        return tokens

    tokens = layout.add(layout.embed(x), layout.table("position"))
    tokens = run(tokens, config.head_depth)
    if config.is_elastic:
        patches, all_latents = _read(layout, tokens, vectors)
        groups = layout.to_groups(all_latents, config.latents_per_group)
        full = latents == config.latents_per_group
        kept = groups if full else layout.part_of_groups(groups, 0, latents)
        source = layout.to_groups(run(layout.to_tokens(kept), config.core_depth), latents)
        if config.write_latents == "all" and not full:
            dropped = layout.part_of_groups(groups, latents, config.latents_per_group)
            source = layout.join_groups(source, dropped)
        tokens = _write(layout, patches, source)
    tokens = run(tokens, config.tail_depth)
    shift, scale = next(vectors), next(vectors)
    with layout.part("final"):
        found = layout.linear(layout.modulate(layout.cast(tokens), shift, scale), "final")
    return layout.unembed(layout.cast(found), "velocity")


def _block(layout: Layout, tokens: Var, index: int, vectors: Iterator[Var]) -> Var:
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (next(vectors) for _ in range(Block.MODULATIONS))
    name = f"blocks.{index}"
    with layout.part(f"{name}.attn"):
        seen = layout.modulate(layout.cast(tokens), shift_a, scale_a)
        query, key, value = layout.chunks(layout.linear(seen, f"{name}.attn.qkv"), 3)
        found = layout.gated(layout.cast(gate_a), layout.attend(query, key, value, f"{name}.attn.proj"))
    tokens = layout.add(tokens, layout.cast(found))
    with layout.part(f"{name}.mlp"):
        seen = layout.modulate(layout.cast(tokens), shift_m, scale_m)
        found = layout.gated(layout.cast(gate_m), layout.mlp(seen, f"{name}.mlp"))
    return layout.add(tokens, layout.cast(found))


def _read(layout: Layout, tokens: Var, vectors: Iterator[Var]) -> tuple[Var, Var]:
    """Tokens -> patches and latents, both as tokens."""
    shift_p, scale_p, gate_a, shift_m, scale_m, gate_m = (next(vectors) for _ in range(Read.MODULATIONS))
    count = layout.config.latents_per_group
    patches = layout.add(tokens, layout.table("read.position"))
    with layout.part("read.attn"):
        seen = layout.modulate(layout.cast(patches), shift_p, scale_p)
        key, value = layout.chunks(layout.linear(layout.to_groups(seen, count), "read.attn.kv_proj"), 2)
        key = layout.rms_norm(key, "read.attn.k_norm")
        query = layout.group_queries("read.attn.query")
        found = layout.to_tokens(layout.attend(query, key, value, "read.attn.proj"))
        found = layout.gated(layout.cast(gate_a), found)
    latents = layout.add(layout.cast(found), layout.table("read.queries"))
    with layout.part("read.mlp"):
        seen = layout.modulate(layout.cast(latents), shift_m, scale_m)
        found = layout.gated(layout.cast(gate_m), layout.mlp(seen, "read.mlp"))
    latents = layout.add(latents, layout.cast(found))
    return patches, layout.add(latents, layout.table("read.latent_position"))


def _write(layout: Layout, patches: Var, source: Var) -> Var:
    """Patches as tokens, latents as groups -> tokens."""
    patches = layout.add(patches, layout.table("write.position"))
    with layout.part("write.attn"):
        target = layout.to_groups(layout.cast(patches), layout.config.latents_per_group)
        query = layout.rms_norm(layout.linear(target, "write.attn.q_proj"), "write.attn.q_norm")
        key, value = layout.chunks(layout.linear(layout.cast(source), "write.attn.kv_proj"), 2)
        key = layout.rms_norm(key, "write.attn.k_norm")
        found = layout.to_tokens(layout.attend(query, key, value, "write.attn.proj"))
    tokens = layout.add(patches, layout.cast(found))
    with layout.part("write.mlp"):
        found = layout.mlp(layout.cast(tokens), "write.mlp")
    return layout.add(tokens, layout.cast(found))
