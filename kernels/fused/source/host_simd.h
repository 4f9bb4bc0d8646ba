// Operations of a whole simdgroup on the host: shuffles, votes, barriers and the emulated matrix tiles.

namespace kv {

struct ShuffleOperand {
  float value;
  int from;
  float result;
};
inline void shuffle_all(void** operands) {
  for (int i = 0; i < host::SIMD; ++i) {
    ShuffleOperand* mine = static_cast<ShuffleOperand*>(operands[i]);
    if (mine->from < 0 || mine->from >= host::SIMD) throw host::Failure("a shuffle reads a lane that does not exist");
    mine->result = static_cast<ShuffleOperand*>(operands[mine->from])->value;
  }
}
inline float simd_read(float x, int lane) {
  ShuffleOperand operand{x, lane, 0.0f};
  host::machine()->meet_simd(&shuffle_all, &operand);
  return operand.result;
}
inline float simd_swap(float x, int mask) { return simd_read(x, host::machine()->lane() ^ mask); }

inline void vote_all(void** operands) {
  bool some = false;
  for (int i = 0; i < host::SIMD; ++i) some |= *static_cast<bool*>(operands[i]);
  for (int i = 0; i < host::SIMD; ++i) *static_cast<bool*>(operands[i]) = some;
}
inline bool simd_some(bool x) {
  host::machine()->meet_simd(&vote_all, &x);
  return x;
}
inline void simd_sync() { host::machine()->meet_simd_barrier(); }
inline void group_sync() { host::machine()->meet_group_barrier(); }

struct TileA {
  Pair v[4];
};
struct TileB {
  Pair v[2];
};
struct TileC {
  float v[4];
};
inline float pair_part(Pair p, int j) { return j ? pair_high(p) : pair_low(p); }

struct ProductOperand {
  TileC* c;
  const TileA* a;
  const TileB* b;
};
inline void multiply_all(void** operands) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < host::SIMD; ++lane) {
    const ProductOperand* mine = static_cast<ProductOperand*>(operands[lane]);
    for (int k = 0; k < 2; ++k)
      for (int j = 0; j < 2; ++j) {
        for (int r = 0; r < 2; ++r)
          a[lane_row(lane) + 8 * r][2 * lane_quad(lane) + j + 8 * k] = pair_part(mine->a->v[r + 2 * k], j);
        b[tile_b_row(lane, k, j)][tile_b_column(lane, j)] = pair_part(mine->b->v[k], j);
      }
  }
  for (int lane = 0; lane < host::SIMD; ++lane) {
    TileC* c = static_cast<ProductOperand*>(operands[lane])->c;
    for (int r = 0; r < 2; ++r)
      for (int j = 0; j < 2; ++j) {
        float sum = c->v[2 * r + j];
        for (int k = 0; k < 16; ++k) sum += a[lane_row(lane) + 8 * r][k] * b[k][2 * lane_quad(lane) + j];
        c->v[2 * r + j] = sum;
      }
  }
}
inline void multiply_add(TileC& c, const TileA& a, const TileB& b) {
  ProductOperand operand{&c, &a, &b};
  host::machine()->meet_simd(&multiply_all, &operand);
}

#ifdef KV_LIKE_METAL
inline TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  return TileB{{make_pair(c0, c1), make_pair(c2, c3)}};
}
#else
inline void transpose_all(void** operands) {
  ushort values[16][8];
  for (int lane = 0; lane < host::SIMD; ++lane)
    for (int k = 0; k < 2; ++k)
      for (int j = 0; j < 2; ++j)
        values[lane_row(lane) + 8 * k][2 * lane_quad(lane) + j] =
            ushort(static_cast<TileB*>(operands[lane])->v[k].bits >> (16 * j));
  for (int lane = 0; lane < host::SIMD; ++lane)
    for (int k = 0; k < 2; ++k)
      static_cast<TileB*>(operands[lane])->v[k].bits =
          values[tile_b_row(lane, k, 0)][tile_b_column(lane, 0)] |
          uint(values[tile_b_row(lane, k, 1)][tile_b_column(lane, 1)]) << 16;
}
inline TileB tile_b_from_c(float c0, float c1, float c2, float c3) {
  TileB tile{{make_pair(c0, c1), make_pair(c2, c3)}};
  host::machine()->meet_simd(&transpose_all, &tile);
  return tile;
}
#endif

}  // namespace kv
