// The end of a threadgroup's work: what its simdgroups found becomes one partial in device memory.

namespace kv {

// Where row r (0 to 15) of output tile `tile` lies among the channels.
template <typename V>
KV_FUNC int output_channel(int tile, int r) {
  typedef Slices<V, 8> Cut;
  const int unit = tile / (Cut::words * Cut::pairs);
  const int word = tile / Cut::pairs % Cut::words;
  const int code = tile % Cut::pairs + (r >> 3) * Cut::pairs;
  return V::channel(unit * Cut::unit + (r & 7) * Cut::run + word * Cut::codes + code);
}
template <typename V>
KV_FUNC constexpr int output_group(int tile) {
  return tile / (Slices<V, 8>::words * Slices<V, 8>::pairs) / Slices<V, 8>::units_per_group;
}

// Threadgroup memory for simdgroups of HEADS heads each. Output tiles pass through it a few at a time.
template <int HEADS, int TILES, int SIMDS>
struct Publish {
  KV_CONST int at_once = least(TILES, most(1, 128 / (SIMDS * HEADS)));  // at most 8 KiB, or one tile
  KV_CONST int tile_floats = SIMDS * HEADS * at_once * 16;
  KV_CONST int floats = tile_floats + 3 * SIMDS * HEADS;
};

// Simdgroup s holds tokens of stripe s % STRIPES for the heads of chunk first_chunk + s / STRIPES. Writes outputs
// relative to the common maximum into partials [B, Hq, splits, D], and (maximum, sum) into leads [B, Hq, splits, 2].
template <typename Body, typename V, int GQA, int HEADS, int SIMDS, int STRIPES>
KV_FUNC void publish(KV_THREAD Body& body, KV_THREAD const Place& place, int first_chunk, KV_SHARED(float) memory,
                     KV_DEVICE(float) partials, KV_DEVICE(float) leads) {
  typedef Publish<HEADS, V::dim / 16, SIMDS> Plan;
  const int thread = place.simd * 32 + place.lane;
  const i64 first_head = ((i64)place.batch * place.kv_heads + place.kv_head) * GQA;
  KV_SHARED(float) peaks = memory + Plan::tile_floats;
  KV_SHARED(float) sums = peaks + SIMDS * HEADS;
  KV_SHARED(float) weights = sums + SIMDS * HEADS;
  body.finish();
  group_sync();  // the memory was in use until here
  body.lead(peaks + place.simd * HEADS, sums + place.simd * HEADS);
  group_sync();
  for (int i = thread; i < SIMDS * HEADS; i += SIMDS * 32) {
    const int slot = i / (HEADS * STRIPES), head = i % HEADS;
    float top = lowest_peak();
    for (int s = 0; s < STRIPES; ++s) top = larger(top, peaks[(slot * STRIPES + s) * HEADS + head]);
    weights[i] = fast_exp2(peaks[i] - top);
    const int group_head = (first_chunk + slot) * HEADS + head;
    if (i / HEADS % STRIPES == 0 && group_head < GQA) {
      float total = 0.0f;
      for (int s = 0; s < STRIPES; ++s) {
        const int at = (slot * STRIPES + s) * HEADS + head;
        total += sums[at] * fast_exp2(peaks[at] - top);
      }
      const i64 row = (first_head + group_head) * place.splits + place.split;
      leads[2 * row] = top;
      leads[2 * row + 1] = total;
    }
  }
  group_sync();
  KV_UNROLL for (int first = 0; first < V::dim / 16; first += Plan::at_once) {
    const int count = least(Plan::at_once, V::dim / 16 - first);
    body.template store<Plan::at_once>(memory + place.simd * HEADS * Plan::at_once * 16, first,
                                       weights + place.simd * HEADS);
    group_sync();
    for (int i = thread; i < SIMDS / STRIPES * HEADS * count * 16; i += SIMDS * 32) {
      const int r = i % 16, tile = i / 16 % count, head = i / (16 * count) % HEADS, slot = i / (16 * count * HEADS);
      const int group_head = (first_chunk + slot) * HEADS + head;
      if (group_head < GQA) {
        float total = 0.0f;
        for (int s = 0; s < STRIPES; ++s)
          total += memory[(((slot * STRIPES + s) * HEADS + head) * Plan::at_once + tile) * 16 + r];
        const i64 row = (first_head + group_head) * place.splits + place.split;
        partials[row * V::dim + output_channel<V>(first + tile, r)] = total;
      }
    }
    group_sync();
  }
}

}  // namespace kv
