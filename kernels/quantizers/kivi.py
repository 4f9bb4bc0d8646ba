"""KIVI: asymmetric group quantization, keys per channel over runs of tokens, values per token over channels."""

from __future__ import annotations

from swarm.kernels import arrays, bits
from swarm.kernels.arrays import Array, Namespace, Packed
from swarm.kernels.fused.form import PackedForm
from swarm.kernels.quantizers.base import Choices, Quantizer


class Kivi(Quantizer):
    """x ~ low + scale q with scale = (high - low) / (2^bits - 1) over each group.

    With axis `channel` (the paper's for keys) a group is `group_size` tokens of one channel, encoded when all of them
    are there; with axis `token` (the paper's for values) it is `group_size` channels of one token. The paper keeps
    the most recent 128 tokens in 16 bit: that is `residual_window` of the KVSpec.

    Layout with axis `channel`: `codes` uint8 [B, H, T / g, g, D * bits / 8], `scales` and `lows` float16
    [B, H, T / g, D]. With axis `token`: `codes` uint8 [B, H, T, D * bits / 8], `scales` and `lows` float16
    [B, H, T, D / g]. Codes low bits first along the channels.
    """

    name = "kivi"
    source = "2402.02750"
    summary = "keys per channel over groups of tokens, values per token"
    formula = "b + 32/g"
    choices = Choices(
        bits=(2, 4, 3, 8),
        group_sizes=(32, 64, 128),
        axes=("channel", "token"),
        scalings=("fixed", "learned"),
        side_axes={"key": "channel", "value": "token"},
    )

    @property
    def block_tokens(self) -> int:
        """A group of tokens for axis `channel`."""
        return self.group if self.spec.axis == "channel" else 1

    def pack(self, xp: Namespace, x: Array) -> Packed:
        """Scale and minimum per group in 16 bit, then codes against those rounded values."""
        values = arrays.single(xp, x)
        groups, axis = self._groups(values), 3 if self.spec.axis == "channel" else 4
        low = xp.min(groups, axis=axis, keepdims=True)
        scale = ((xp.max(groups, axis=axis, keepdims=True) - low) / (2**self.bits - 1)).astype(xp.float16)
        low = low.astype(xp.float16)
        step = scale.astype(xp.float32)
        inverse = xp.where(step > 0, 1 / xp.maximum(step, 1e-30), xp.zeros_like(step))
        codes = xp.round((groups - low.astype(xp.float32)) * inverse)
        codes = xp.clip(codes, 0, 2**self.bits - 1).astype(xp.uint8)
        if self.spec.axis == "token":
            codes = codes.reshape(x.shape)
        return {
            "codes": bits.pack(xp, codes, self.bits),
            "scales": xp.squeeze(scale, axis=axis),
            "lows": xp.squeeze(low, axis=axis),
        }

    def unpack(self, xp: Namespace, packed: Packed) -> Array:
        """Decode: low + scale q."""
        codes = bits.unpack(xp, packed["codes"], self.bits).astype(xp.float32)
        tokens = codes.shape[2] * self.block_tokens
        shape = (*codes.shape[:2], tokens, codes.shape[-1])
        scale, low = (arrays.single(xp, packed[name]) for name in ("scales", "lows"))
        if self.spec.axis == "channel":
            scale, low = scale[..., None, :], low[..., None, :]
        else:
            codes = codes.reshape(*codes.shape[:-1], -1, self.group)
            scale, low = scale[..., None], low[..., None]
        codes *= scale
        codes += low
        return codes.reshape(shape)

    def _groups(self, x: Array) -> Array:
        """[B, H, T / g, g, D] for axis `channel`, [B, H, T, D / g, g] for axis `token`."""
        if self.spec.axis == "channel":
            return x.reshape(*x.shape[:2], -1, self.group, x.shape[-1])
        return x.reshape(*x.shape[:-1], -1, self.group)

    def bits_per_value(self) -> float:
        """Code bits plus a 16-bit scale and minimum per group."""
        return self.bits + 32 / self.group

    def form(self) -> PackedForm:
        """The layout above: with axis `channel`, a group is of tokens."""
        meta = 3 if self.spec.axis == "channel" else 2
        return PackedForm(self.bits, self.group, "unsigned", meta, scales_name="scales", biases_name="lows")
