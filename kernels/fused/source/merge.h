// Merges the partials of a query head: outputs relative to their own maximum become the attention output.

namespace kv {

// partials [rows, splits, D], leads [rows, splits, 2] (maximum, sum). One threadgroup per row (batch and query head).
// Partials before `packed` are in the frame of the packed values: they go to out[0], the others to out[OUTPUTS - 1].
template <int DIM, int SIMDS, int OUTPUTS, typename T>
KV_FUNC void merge(KV_DEVICE(const float) partials, KV_DEVICE(const float) leads, int splits, int packed, i64 row,
                   i64 rows, int lane, int simd, KV_SHARED(float) memory, KV_DEVICE(T) out) {
  constexpr int channels = (DIM + 31) / 32;  // of a lane
  float top = lowest_peak();
  for (int s = lane; s < splits; s += 32) top = larger(top, leads[2 * (row * splits + s)]);
  KV_UNROLL for (int i = 0; i < 5; ++i) top = larger(top, simd_swap(top, 1 << i));
  float total = 0.0f;
  for (int s = lane; s < splits; s += 32)
    total += leads[2 * (row * splits + s) + 1] * fast_exp2(leads[2 * (row * splits + s)] - top);
  KV_UNROLL for (int i = 0; i < 5; ++i) total += simd_swap(total, 1 << i);

  float sums[OUTPUTS][channels];
  KV_UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    KV_UNROLL for (int c = 0; c < channels; ++c) sums[o][c] = 0.0f;
  }
  KV_UNROLL_4 for (int s = simd; s < splits; s += SIMDS) {
    const i64 at = row * splits + s;
    const float weight = fast_exp2(leads[2 * at] - top);
    KV_UNROLL for (int c = 0; c < channels; ++c) {
      const int channel = 32 * c + lane;
      const float x = channel < DIM ? partials[at * DIM + channel] * weight : 0.0f;
      if (OUTPUTS == 1 || s < packed) {
        sums[0][c] += x;
      } else {
        sums[OUTPUTS - 1][c] += x;
      }
    }
  }
  KV_UNROLL for (int o = 0; o < OUTPUTS; ++o) {
    KV_UNROLL for (int c = 0; c < channels; ++c) {
      if (32 * c + lane < DIM) memory[(simd * OUTPUTS + o) * DIM + 32 * c + lane] = sums[o][c];
    }
  }
  group_sync();
  for (int i = simd * 32 + lane; i < OUTPUTS * DIM; i += 32 * SIMDS) {
    float sum = 0.0f;
    KV_UNROLL for (int s = 0; s < SIMDS; ++s) sum += memory[s * OUTPUTS * DIM + i];
    out[(i / DIM * rows + row) * DIM + i % DIM] = Convert<T>::from(sum / total);
  }
}

}  // namespace kv
