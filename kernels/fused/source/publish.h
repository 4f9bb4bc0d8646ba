// The end of a threadgroup's work: what its simdgroups found becomes one partial in device memory, or the output itself.

namespace kv {

// Row r (0 to 15) of output tile `tile` holds the channel at output_position; the inverse is tile_of and row_of.
template <typename V>
struct Output {
  typedef Slices<V, 8> Cut;
  KV_CONST int unit_tiles = Cut::words * Cut::pairs;

  static KV_FUNC constexpr int group(int tile) { return tile / unit_tiles / Cut::units_per_group; }
  static KV_FUNC int position(int tile, int r) {
    const int code = tile % Cut::pairs + (r >> 3) * Cut::pairs;
    return tile / unit_tiles * Cut::unit + (r & 7) * Cut::run + tile / Cut::pairs % Cut::words * Cut::codes + code;
  }
  static KV_FUNC int tile_of(int position) {
    return position / Cut::unit * unit_tiles + position % Cut::run / Cut::codes * Cut::pairs + position % Cut::pairs;
  }
  static KV_FUNC int row_of(int position) {
    return position % Cut::unit / Cut::run + 8 * (position % Cut::codes / Cut::pairs);
  }
};

// Threadgroup memory for simdgroups of HEADS heads each. Output tiles pass through it a few at a time.
template <int HEADS, int TILES, int SIMDS, int FLOATS>
struct Publish {
  KV_CONST int at_once = least(TILES, most(1, FLOATS / (16 * SIMDS * HEADS)));
  KV_CONST int tile_floats = SIMDS * HEADS * at_once * 16;
  KV_CONST int floats = tile_floats + 2 * SIMDS * HEADS;
};

// Where a part's result goes when others are merged with it: sums relative to the maximum into partials
// [B, Hq, splits, D], and (maximum, sum of weights) into leads [B, Hq, splits, 2].
struct Partials {
  KV_DEVICE(float) partials;
  KV_DEVICE(float) leads;

  KV_FUNC void put(i64 at, float sum, float) const { partials[at] = sum; }
  KV_FUNC void lead(i64 row, float top, float weight) const {
    leads[2 * row] = top;
    leads[2 * row + 1] = weight;
  }
};

// Where it goes when there is one part: the attention output [B, Hq, D].
template <typename T>
struct Whole {
  KV_DEVICE(T) out;

  KV_FUNC void put(i64 at, float sum, float weight) const { out[at] = Convert<T>::from(sum / weight); }
  KV_FUNC void lead(i64, float, float) const {}
};

// Simdgroup s holds tokens of stripe s % STRIPES for the heads of chunk first_chunk + s / STRIPES.
template <typename Body, typename V, typename Plan, int HEADS, int SIMDS, int STRIPES, typename Sink>
KV_FUNC void publish(KV_THREAD Body& body, KV_THREAD const Place& place, int first_chunk, KV_SHARED(float) memory,
                     KV_THREAD const Sink& sink) {
  KV_SHARED(float) peaks = memory + Plan::tile_floats;
  KV_SHARED(float) sums = peaks + SIMDS * HEADS;
  const int index = place.simd * 32 + place.lane;
  body.finish();
  body.leave_peaks(peaks + place.simd * HEADS);
  group_sync();
  body.template weigh<HEADS, STRIPES>(peaks + place.simd / STRIPES * STRIPES * HEADS);
  body.leave_sums(sums + place.simd * HEADS);
  KV_UNROLL for (int first = 0; first < V::dim / 16; first += Plan::at_once) {
    if (first > 0) group_sync();
    body.template store<Plan::at_once>(memory + place.simd * HEADS * Plan::at_once * 16, first);
    group_sync();
    const int count = 16 * least(Plan::at_once, V::dim / 16 - first);
    // Whole units are written channel by channel, so that neighbouring lanes write neighbouring channels.
    constexpr bool whole = Plan::at_once % Output<V>::unit_tiles == 0;
    KV_UNROLL_1 for (int i = index; i < SIMDS / STRIPES * HEADS * count; i += SIMDS * 32) {
      const int at = i % count, head = i / count % HEADS, slot = i / (count * HEADS);
      const int group_head = (first_chunk + slot) * HEADS + head;
      if (group_head < place.heads) {
        const int tile = whole ? Output<V>::tile_of(at) : at / 16;
        const int r = whole ? Output<V>::row_of(at) : at % 16;
        const int position = whole ? 16 * first + at : Output<V>::position(first + tile, r);
        float total = 0.0f, weight = 0.0f;
        KV_UNROLL for (int s = 0; s < STRIPES; ++s) {
          total += memory[(((slot * STRIPES + s) * HEADS + head) * Plan::at_once + tile) * 16 + r];
          weight += sums[(slot * STRIPES + s) * HEADS + head];
        }
        const i64 row = (place.first_head + group_head) * place.splits + place.split;
        sink.put(row * V::dim + Slices<V, 8>::channel(position), total, weight);
      }
    }
  }
  KV_UNROLL_1 for (int i = index; i < SIMDS / STRIPES * HEADS; i += SIMDS * 32) {
    const int slot = i / HEADS, group_head = first_chunk * HEADS + i;
    if (group_head < place.heads) {
      float top = lowest_peak(), total = 0.0f;
      KV_UNROLL for (int s = 0; s < STRIPES; ++s) {
        const int at = (slot * STRIPES + s) * HEADS + i % HEADS;
        top = larger(top, peaks[at]);
        total += sums[at];
      }
      const i64 row = (place.first_head + group_head) * place.splits + place.split;
      sink.lead(row, top, total);
    }
  }
}

}  // namespace kv
