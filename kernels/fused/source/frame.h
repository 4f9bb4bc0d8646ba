// The frame in which packed vectors live: queries become (q * factors) H, outputs o return as (o H) * factors. H is block
// diagonal of Hadamard matrices of a power of two, ORDER, with entries 1 and -1 (of order 1: factors alone).

namespace kv {

// One stage of the transform of DIM numbers: sums and differences of those `span` apart, by one of `workers`.
template <int DIM>
KV_FUNC void turn(KV_SHARED(float) row, int span, int worker, int workers) {
  for (int i = worker; i < DIM / 2; i += workers) {
    const int at = i / span * 2 * span + i % span;
    const float low = row[at], high = row[at + span];
    row[at] = low + high;
    row[at + span] = low - high;
  }
}

// Queries in threadgroup memory [heads][dim].
struct FramedHeads {
  KV_SHARED(float) first;
  int dim;

  KV_FUNC float at(int head, int channel) const { return first[head * dim + channel]; }
  KV_FUNC FramedHeads from(int channel) const {
    FramedHeads next = {first + channel, dim};
    return next;
  }
};

// Puts the queries of COUNT heads, of which `present` are there, into the frame; a simdgroup takes one head at a time.
template <int ORDER, int DIM, int COUNT, int SIMDS, typename Queries>
KV_FUNC void put_into_frame(KV_THREAD const Queries& q, int present, KV_DEVICE(const float) factors, int simd, int lane,
                            KV_SHARED(float) framed) {
  KV_UNROLL_1 for (int h = simd; h < COUNT; h += SIMDS) {
    for (int c = lane; c < DIM; c += 32) framed[h * DIM + c] = h < present ? q.at(h, c) * factors[c] : 0.0f;
    KV_UNROLL_1 for (int span = 1; span < ORDER; span *= 2) {
      simd_sync();
      turn<DIM>(framed + h * DIM, span, lane, 32);
    }
  }
  group_sync();
}

}  // namespace kv
