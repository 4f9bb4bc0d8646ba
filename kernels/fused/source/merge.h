// Merges the partials of a query head: outputs relative to their own maximum become the attention output.

namespace kv {

// partials [rows, splits, D], leads [rows, splits, 2] (maximum, sum); a row is a batch entry and query head.
// Partials before `packed` are in the frame of the packed values: they go to out[0], the others to out[OUTPUTS - 1].
template <int DIM, int SIMDS, int OUTPUTS>
struct Merge {
  KV_CONST int parts = (DIM + 127) / 128;  // threadgroups per row: a lane holds four neighbouring channels
  KV_CONST int early = 4;                  // partials that a simdgroup loads before it knows their weights

  KV_DEVICE(const float) partials;
  KV_DEVICE(const float) leads;
  int splits, packed;  // partials per row; those of packed values come first
  i64 row;
  int lane, simd, part;

  KV_FUNC void load(int split, KV_THREAD Words<4>& x) const {
    const int channel = 128 * part + 4 * lane;
    if (split < splits && channel < DIM) load_words<4>(bytes_of(partials + (row * splits + split) * DIM + channel), x);
  }
  KV_FUNC void add(int split, float top, KV_THREAD const Words<4>& x, KV_THREAD float (&sums)[OUTPUTS][4]) const {
    if (split >= splits) return;
    const float weight = fast_exp2(leads[2 * (row * splits + split)] - top);
    KV_UNROLL for (int c = 0; c < 4; ++c) {
      if (OUTPUTS == 1 || split < packed) {
        sums[0][c] = fast_fma(weight, bits_float(x.w[c]), sums[0][c]);
      } else {
        sums[OUTPUTS - 1][c] = fast_fma(weight, bits_float(x.w[c]), sums[OUTPUTS - 1][c]);
      }
    }
  }

  template <typename Sink>
  KV_FUNC void run(KV_SHARED(float) memory, KV_THREAD const Sink& sink) const {
    Words<4> first[early];
    KV_UNROLL for (int i = 0; i < early; ++i) {
      KV_UNROLL for (int c = 0; c < 4; ++c) first[i].w[c] = 0u;
      load(simd + i * SIMDS, first[i]);
    }
    float top = lowest_peak();
    KV_UNROLL_1 for (int s = lane; s < splits; s += 32) top = larger(top, leads[2 * (row * splits + s)]);
    KV_UNROLL for (int i = 0; i < 5; ++i) top = larger(top, simd_swap(top, 1 << i));
    float total = 0.0f;
    KV_UNROLL_1 for (int s = lane; s < splits; s += 32)
      total += leads[2 * (row * splits + s) + 1] * fast_exp2(leads[2 * (row * splits + s)] - top);
    KV_UNROLL for (int i = 0; i < 5; ++i) total += simd_swap(total, 1 << i);

    float sums[OUTPUTS][4];
    KV_UNROLL for (int o = 0; o < OUTPUTS; ++o) {
      KV_UNROLL for (int c = 0; c < 4; ++c) sums[o][c] = 0.0f;
    }
    KV_UNROLL for (int i = 0; i < early; ++i) add(simd + i * SIMDS, top, first[i], sums);
    KV_UNROLL_4 for (int s = simd + early * SIMDS; s < splits; s += SIMDS) {
      Words<4> x = first[0];
      load(s, x);
      add(s, top, x, sums);
    }
    KV_UNROLL for (int o = 0; o < OUTPUTS; ++o) {
      KV_UNROLL for (int c = 0; c < 4; ++c) memory[(simd * OUTPUTS + o) * 128 + 4 * lane + c] = sums[o][c];
    }
    group_sync();
    for (int i = simd * 32 + lane; i < OUTPUTS * 128; i += 32 * SIMDS) {
      const int channel = 128 * part + i % 128;
      float sum = 0.0f;
      KV_UNROLL for (int s = 0; s < SIMDS; ++s) sum += memory[s * OUTPUTS * 128 + i];
      if (channel < DIM) sink.put(i / 128, row, channel, sum / total);
    }
  }
};

// The output [OUTPUTS, rows, D].
template <int DIM, typename T>
struct Merged {
  KV_DEVICE(T) out;
  i64 rows;

  KV_FUNC void put(int output, i64 row, int channel, float x) const {
    out[(output * rows + row) * DIM + channel] = Convert<T>::from(x);
  }
};

// One row, [OUTPUTS][D] in threadgroup memory.
template <int DIM>
struct MergedRow {
  KV_SHARED(float) row;

  KV_FUNC void put(int output, i64, int channel, float x) const { row[output * DIM + channel] = x; }
};

}  // namespace kv
