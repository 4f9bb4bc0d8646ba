// What becomes of a score, the product of query and key in base 2, before the softmax.

namespace kv {

KV_FUNC constexpr float log2_e() { return 1.4426950408889634f; }

// Nothing. Heads are counted among those of the threadgroup, tokens within their run.
struct Plain {
  KV_FUNC Plain from(i64) const { return Plain(); }
  KV_FUNC Plain where(bool) const { return Plain(); }
  KV_FUNC float score(float x, int, i64) const { return x; }
  KV_FUNC float sink(int) const { return lowest_peak(); }
  KV_FUNC float share(int, float) const { return 0.0f; }
};

// With CAP, cap * tanh(score / cap); with BIAS, a number per query head and column is added, of which those far below
// zero hide the column; with SINKS, every head has one more logit in its softmax that stands for no token.
template <int CAP, int BIAS, int SINKS, typename B, typename S>
struct Scored {
  float cap;                // in base 2
  KV_DEVICE(const B) bias;  // of the first head at the run's first token
  i64 head_stride, column_stride;
  KV_DEVICE(const S) sinks;  // from the first head on
  int heads;
  bool counts;  // whether this simdgroup is the one whose sums hold the sinks

  KV_FUNC Scored from(i64 column) const {
    Scored next = {cap, bias + column * column_stride, head_stride, column_stride, sinks, heads, counts};
    return next;
  }
  KV_FUNC Scored where(bool counting) const {
    Scored next = {cap, bias, head_stride, column_stride, sinks, heads, counting};
    return next;
  }
  KV_FUNC float score(float x, int head, i64 token) const {
    if (CAP) x = cap * hyperbolic_tangent(x / cap);
    if (!BIAS) return x;
    const i64 at = least(head, heads - 1) * head_stride + token * column_stride;
    return larger(fast_fma(larger(to_float(bias[at]), lowest_peak()), log2_e(), x), lowest_peak());
  }
  KV_FUNC float sink(int head) const {
    return SINKS && counts && head < heads ? to_float(sinks[head]) * log2_e() : lowest_peak();
  }
  // The weight of a head's sink relative to the maximum.
  KV_FUNC float share(int head, float top) const {
    return SINKS && counts && head < heads ? fast_exp2(sink(head) - top) : 0.0f;
  }
};

}  // namespace kv
