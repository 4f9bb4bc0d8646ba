// Quantizes vectors as they come in and packs their codes: a simdgroup takes one vector of one head, group by group.
// Rounds exactly as the reference encoders do: no product is fused into a sum here.

namespace kv {

enum EncoderKind {
  ENCODE_AFFINE = 0,
  ENCODE_PEAK = 1,
  ENCODE_EXTREME = 2,
  ENCODE_MINIMUM = 3,
  ENCODE_NEAREST = 4,
  ENCODE_POWER = 5,
  ENCODE_RATIO = 6
};

KV_FUNC float simd_largest(float x) {
  KV_UNROLL for (int i = 0; i < 5; ++i) x = larger(x, simd_swap(x, 1 << i));
  return x;
}
KV_FUNC float smaller(float a, float b) { return a < b ? a : b; }
KV_FUNC float inverse_of(float x) { return x == 0.0f ? 0.0f : quotient(1.0f, x); }

// The 8-bit float (e4m3) nearest to x >= 0, the even one of two; the largest one for all beyond it.
KV_FUNC uint nearest_e4m3(float x) {
  if (x < 0.015625f) return uint(round_even(product(x, 512.0f)));  // multiples of 2^-9
  const uint bits = float_bits(x);
  const uint code = ((bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20) - (120u << 3);
  return code < 126u ? code : 126u;
}
// The 4-bit float (e2m1) nearest to x >= 0, the smaller one of two.
KV_FUNC uint nearest_e2m1(float x) {
  uint code = x > 5.0f ? 1u : 0u;
  KV_UNROLL for (int i = 0; i < 4; ++i) code += x > 0.25f + 0.5f * float(i) ? 1u : 0u;
  return code + (x > 2.5f ? 1u : 0u) + (x > 3.5f ? 1u : 0u);
}

// One group of GROUP channels, spread over the lanes: what is stored of it, and the code of every value.
template <int KIND, int BITS, int GROUP>
struct GroupEncoder {
  KV_CONST int each = (GROUP + 31) / 32;  // values of a lane: channels lane, lane + 32, ...
  KV_CONST int levels = (1 << BITS) - 1;

  int lane;
  float x[each];
  float scale, bias;  // as stored, before rounding to 16 bit
  float factor;       // what values are multiplied with before rounding
  uint scale_code;    // of a scale that is stored as a byte

  KV_FUNC bool present(int i) const { return GROUP % 32 == 0 || lane + 32 * i < GROUP; }

  template <typename X>
  KV_FUNC void load(KV_DEVICE(const X) values, i64 stride, int first, int lane_index) {
    lane = lane_index;
    KV_UNROLL for (int i = 0; i < each; ++i)
      x[i] = present(i) ? to_float(values[(first + lane + 32 * i) * stride]) : 0.0f;
  }

  // The largest value, and the largest of the negated ones.
  KV_FUNC void bounds(KV_THREAD float& high, KV_THREAD float& low) const {
    high = x[0];
    low = -x[0];
    KV_UNROLL for (int i = 1; i < each; ++i) {
      high = larger(high, x[i]);
      low = larger(low, -x[i]);
    }
    high = simd_largest(high);
    low = -simd_largest(low);
  }

  // The value of largest magnitude; the first of equals.
  KV_FUNC float extreme() const {
    float top = 0.0f, at = float(GROUP);
    KV_UNROLL for (int i = 0; i < each; ++i) top = larger(top, magnitude(x[i]));
    top = simd_largest(top);
    KV_UNROLL for (int i = each - 1; i >= 0; --i) at = magnitude(x[i]) == top ? float(lane + 32 * i) : at;
    at = -simd_largest(-at);
    float found = lowest();
    KV_UNROLL for (int i = 0; i < each; ++i) found = float(lane + 32 * i) == at ? x[i] : found;
    return simd_largest(found);
  }
  static KV_FUNC constexpr float lowest() { return -3.0e38f; }

  KV_FUNC void measure() {
    float high = 0.0f, low = 0.0f;
    bias = 0.0f;
    if (KIND == ENCODE_NEAREST) {
      float sum = 0.0f;
      KV_UNROLL for (int i = 0; i < each; ++i) sum += product(x[i], x[i]);
      KV_UNROLL for (int i = 0; i < 5; ++i) sum += simd_swap(sum, 1 << i);
      scale = root(sum);
      factor = scale > 0.0f ? quotient(1.0f, larger(scale, 1.0e-30f)) : 0.0f;
      return;
    }
    if (KIND != ENCODE_EXTREME) bounds(high, low);
    if (KIND == ENCODE_POWER || KIND == ENCODE_RATIO) {
      measure_byte(magnitude(larger(high, -low)));
      return;
    }
    if (KIND == ENCODE_PEAK) scale = quotient(magnitude(larger(high, -low)), float(levels >> 1));
    if (KIND == ENCODE_EXTREME) scale = quotient(extreme(), -float(1 << (BITS - 1)));
    if (KIND == ENCODE_MINIMUM) {
      scale = quotient(high - low, float(levels));
      bias = low;
    }
    factor = inverse_of(scale);
    if (KIND == ENCODE_AFFINE) {  // MLX's rule: the edge of larger magnitude is exact
      const bool below = magnitude(low) > magnitude(high);
      const float width = larger(quotient(high - low, float(levels)), 1.0e-7f);
      const float edge = below ? low : high;
      scale = below ? width : -width;
      const float steps = round_even(quotient(edge, scale));
      if (steps != 0.0f) {
        scale = quotient(edge, steps);
        bias = edge;
      }
    }
  }

  // A scale of one byte: the smallest power of two under which nothing is cut off, or the 8-bit float nearest to the
  // ratio of the largest magnitudes. Values under a scale of zero are stored as they are.
  KV_FUNC void measure_byte(float top) {
    const float largest = BITS == 4 ? 6.0f : 448.0f;
    if (KIND == ENCODE_POWER) {
      const uint fields = float_bits(top), of_largest = float_bits(largest);
      const int above = (fields & 0x7fffffu) > (of_largest & 0x7fffffu) ? 1 : 0;
      const int power = int(fields >> 23) - int(of_largest >> 23) + 127 + above;
      scale_code = top == 0.0f ? 127u : uint(most(0, least(power, 254)));
      scale = bits_float(scale_code == 0u ? 0x400000u : scale_code << 23);
      return;
    }
    scale_code = nearest_e4m3(quotient(top, largest));
    scale = scale_code == 0u ? 1.0f : ScaleValue<SCALES_E4M3, uchar>::of(scale_code, 0);
  }

  // The code of value i; `edges` are the positive bounds between the cells of a symmetric codebook.
  template <typename Edges>
  KV_FUNC uint code(int i, KV_THREAD const Edges& edges) const {
    const float most_levels = float(levels);
    if (KIND == ENCODE_AFFINE) return uint(smaller(larger(round_even(quotient(x[i] - bias, scale)), 0.0f), most_levels));
    if (KIND == ENCODE_PEAK) {  // half away from zero; the float below one half keeps 0.49999997 from rounding up
      const uint q = uint(product(magnitude(x[i]), factor) + 0.49999997f);
      return (x[i] < 0.0f ? 0u - q : q) & uint(levels);
    }
    if (KIND == ENCODE_EXTREME) return uint(smaller(product(x[i], factor) + (float(1 << (BITS - 1)) + 0.5f), most_levels));
    if (KIND == ENCODE_MINIMUM) return uint(smaller(product(x[i] - bias, factor) + 0.5f, most_levels));
    if (KIND == ENCODE_POWER || KIND == ENCODE_RATIO) {
      const float steps = quotient(x[i], scale);
      if (BITS == 4) return nearest_e2m1(magnitude(steps)) | (steps < -0.25f ? 8u : 0u);
      return nearest_e4m3(magnitude(steps)) | ((float_bits(steps) >> 24) & 128u);
    }
    const float direction = product(x[i], factor);
    uint above = 1u << (BITS - 1);
    KV_UNROLL_1 for (int e = 0; e < levels >> 1; ++e) above += magnitude(direction) > edges.at(e) ? 1u : 0u;
    return direction < 0.0f ? above ^ uint(levels) : above;
  }
};

struct NoEdges {
  KV_FUNC float at(int) const { return 0.0f; }
};
struct DeviceEdges {
  KV_DEVICE(const float) values;
  KV_FUNC float at(int i) const { return values[i]; }
};

// Byte `index` of a vector's stream of codes, low bits first, out of threadgroup memory. HALVES as in Format.
template <int BITS, int HALVES>
KV_FUNC uint stream_byte(KV_SHARED(uchar) codes, int index) {
  if (HALVES && BITS == 5) {  // of 20 bytes the fifth bits are the first four
    const int first = index / 20 * 32, at = index % 20;
    uint fifths = 0;
    for (int i = 0; i < 8 && at < 4; ++i) fifths |= ((uint(codes[first + 8 * at + i]) >> 4) & 1u) << i;
    return at < 4 ? fifths : (uint(codes[first + at - 4]) & 15u) | ((uint(codes[first + at + 12]) & 15u) << 4);
  }
  uint x = 0;
  const int last = (8 * index + 7) / BITS;
  for (int i = 8 * index / BITS; i <= last; ++i) {
    const uint code = uint(codes[HALVES ? (i & ~31) + ((i & 31) >> 1) + 16 * (i & 1) : i]);
    const int shift = i * BITS - 8 * index;
    x |= shift >= 0 ? code << shift : code >> -shift;
  }
  return x & 0xffu;
}

template <int BITS>
KV_FUNC uint stream_word(KV_SHARED(uchar) codes, int index) {
  uint word = 0;
  for (int byte = 0; byte < 4; ++byte) word |= stream_byte<BITS, 0>(codes, 4 * index + byte) << (8 * byte);
  return word;
}

KV_FUNC uint half_bits(float x) { return pair_bits(make_pair(x, 0.0f)) & 0xffffu; }

}  // namespace kv
