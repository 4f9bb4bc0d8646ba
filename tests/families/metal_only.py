"""What two families compute with Metal kernels alone, in plain MLX, so that they run on every machine.

Their attention and their caches, which the tests are about, are mlx-lm's own everywhere.
"""

from __future__ import annotations

import importlib

import mlx.core as mx


def install(family: str) -> None:
    """Give a family its plain form where there is no Metal; the other families have one already."""
    if mx.metal.is_available():
        return
    if family == "bitnet":
        importlib.import_module("mlx_lm.models.bitlinear_layers").BitLinear.execute_matmul_kernel = ternary_product
    if family == "muse_spark":
        module = importlib.import_module("mlx_lm.models.muse_spark")
        for kernel in (
            expert_routing,
            norm_add_norm,
            post_expert_norm_combine,
            pre_norm,
            qk_norm,
            qk_norm_rope,
            rms_norm_sigmoid_gate,
        ):
            setattr(module, kernel.__name__, kernel)


def ternary_product(layer, x, packed):
    """x times weights of -1, 0 and 1, four of which are one byte, each in another quarter of the rows."""
    rows = mx.concatenate([(packed >> shift) & 3 for shift in (0, 2, 4, 6)])[: layer.out_features]
    scale = 1 / layer.weight_scale if layer.invert_weight_scales else layer.weight_scale
    return (x @ (rows.astype(x.dtype) - 1).T) * scale


def expert_routing(logits, expert_bias, *, top_k, multiplier, score_eps, route_scale):
    scores = mx.sigmoid(logits.astype(mx.float32) * multiplier)
    chosen = mx.argpartition(-(scores + expert_bias), top_k - 1, axis=-1)[..., :top_k]
    weights = mx.take_along_axis(scores, chosen, axis=-1)
    return [chosen, weights / (weights.sum(axis=-1, keepdims=True) + score_eps) * route_scale]


def qk_norm(qkvg, *, n_heads, n_kv_heads, head_dim, eps, query_scale):
    queries, keys, _ = mx.split(qkvg, [n_heads * head_dim, (n_heads + n_kv_heads) * head_dim], axis=-1)
    queries = mx.unflatten(queries, -1, (n_heads, head_dim))
    keys = mx.unflatten(keys, -1, (n_kv_heads, head_dim))
    return [mx.fast.rms_norm(queries, None, eps) * query_scale, mx.fast.rms_norm(keys, None, eps)]


def qk_norm_rope(qkvg, *, head_dim, rope_base, offset, **arguments):
    def rotated(x):
        rope = mx.fast.rope(x.swapaxes(1, 2), head_dim, traditional=True, base=rope_base, scale=1.0, offset=offset)
        return rope.swapaxes(1, 2)

    return [rotated(x) for x in qk_norm(qkvg, head_dim=head_dim, **arguments)]


def pre_norm(stream, norm, *, dtype):
    return mx.fast.rms_norm(stream, norm.weight.astype(stream.dtype), norm.eps).astype(dtype)


def norm_add_norm(branch, stream, *, alpha, beta, post_weight, post_eps, next_norm):
    scaled = branch if post_weight is None else branch * post_weight
    total = alpha * stream + beta * mx.fast.rms_norm(scaled, None, post_eps)
    return total, None if next_norm is None else pre_norm(total, next_norm, dtype=branch.dtype)


def post_expert_norm_combine(experts, weights, *, norm_weight, eps):
    return (mx.fast.rms_norm(experts * norm_weight, None, eps) * weights[..., None]).sum(axis=-2)


def rms_norm_sigmoid_gate(x, gate, *, eps):
    return mx.fast.rms_norm(x, None, eps).swapaxes(1, 2).flatten(-2) * mx.sigmoid(gate)
