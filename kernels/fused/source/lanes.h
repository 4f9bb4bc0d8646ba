// What a lane holds of the keys and values of a tile: codes as they were loaded, or numbers with their scales in them.

namespace kv {

// Keys of tokens near[0] and near[1] of rows of lane_rows, a run of channels in every unit, and their scales. What is EARLY is
// loaded by `begin`, all runs at once.
template <typename F, bool EARLY>
struct LaneKeys {
  typedef Slices<F, 4> Cut;
  Run<Cut::words> codes[2][EARLY ? Cut::units : 1];
  Scales<F> scales[2], biases[2];

  KV_FUNC void begin(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int quad) {
    KV_UNROLL for (int u = 0; u < (EARLY ? Cut::units : 0); ++u) load(rows, at, u, u, quad);
  }
  KV_FUNC void begin_scales(KV_THREAD const Rows<F>& scale_rows, KV_THREAD const Tokens& at) {
    KV_UNROLL for (int r = 0; r < 2; ++r) {
      if (F::meta >= META_SCALE) load_scales<F>(scale_rows, at.near[r], 0, scales[r]);
      if (F::meta == META_BIAS) load_scales<F>(scale_rows, at.near[r], 1, biases[r]);
    }
  }
  KV_FUNC void fetch(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int u, int quad, KV_SHARED(uint)) {
    if (!EARLY) load(rows, at, u, 0, quad);
  }
  KV_FUNC void load(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int u, int slot, int quad) {
    KV_UNROLL for (int r = 0; r < 2; ++r)
      load_slice<F, 4>(rows.codes + at.near[r] * F::row_bytes, u, quad, codes[r][slot]);
  }
  // Pair i of word w of unit u, of token near[r].
  KV_FUNC Pair pair(int r, int u, int w, int i, KV_SHARED(uint) book) const {
    return pair_at<F>(codes[r][EARLY ? u : 0].w[w], i, book);
  }
  KV_FUNC float scale(int r, int g) const { return F::meta >= META_SCALE ? scales[r].at(g) : 1.0f; }
  KV_FUNC float bias(int r, int g) const {
    return F::meta == META_BIAS ? fast_fma(scale(r, g), float(F::center), biases[r].at(g)) : 0.0f;
  }
};
template <typename F, typename N, bool EARLY>
struct LaneKeys<Scaled<F, N>, EARLY> {
  typedef Decoder<F, 4, Scaled<F, N>::kind> By;
  KV_CONST int units = Slices<Scaled<F, N>, 4>::units;
  KV_CONST bool early = EARLY && units * sizeof(typename By::Raw) <= 24;
  typename By::Raw raw[2][early ? units : 1];
  N numbers[2][By::run / 2];

  KV_FUNC void begin(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int quad) {
    KV_UNROLL for (int u = 0; u < (early ? units : 0); ++u) load(rows, at, u, quad);
  }
  KV_FUNC void begin_scales(KV_THREAD const Rows<Scaled<F, N>>&, KV_THREAD const Tokens&) {}
  KV_FUNC void fetch(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int u, int quad,
                     KV_SHARED(uint) book) {
    if (!early) load(rows, at, u, quad);
    KV_UNROLL for (int r = 0; r < 2; ++r) By::template decode<N>(raw[r][early ? u : 0], u, quad, book, numbers[r]);
  }
  KV_FUNC void load(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int u, int quad) {
    KV_UNROLL for (int r = 0; r < 2; ++r) By::load(rows, at.near[r], u, quad, raw[r][early ? u : 0]);
  }
  KV_FUNC Pair pair(int r, int, int w, int i, KV_SHARED(uint)) const { return numbers[r][w * By::pairs + i]; }
  KV_FUNC float scale(int, int) const { return 1.0f; }
  KV_FUNC float bias(int, int) const { return 0.0f; }
};

// Values of tokens far[0] to far[3] of rows of lane_rows, of a row of channels. Small slices are loaded at the beginning, others a unit ahead.
template <typename F>
struct LaneValues {
  typedef Slices<F, 8> Cut;
  KV_CONST bool early = Cut::units * Cut::words <= 4;
  KV_CONST bool whole = !F::fifths && (Cut::width == 16 || Cut::width == 8);  // two tokens' codes fit into a word
  Run<Cut::words> codes[4][early ? Cut::units : 2];

  KV_FUNC void begin(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int row) {
    KV_UNROLL for (int u = 0; u < (early ? Cut::units : 1); ++u) load(rows, at, u, row);
  }
  KV_FUNC void fetch(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int u, int row, KV_SHARED(uint)) {
    if (!early && u + 1 < Cut::units) load(rows, at, u + 1, row);
  }
  KV_FUNC void load(KV_THREAD const Rows<F>& rows, KV_THREAD const Tokens& at, int u, int row) {
    KV_UNROLL for (int i = 0; i < 4; ++i)
      load_slice<F, 8, !whole>(rows.codes + at.far[i] * F::row_bytes, u, row, codes[i][early ? u : u % 2]);
  }
  // Channels of pair i of word w, as rows, by the four tokens.
  KV_FUNC TileA tile(int u, int w, int i, KV_SHARED(uint) book) const {
    const int slot = early ? u : u % 2;
    TileA a;
    KV_UNROLL for (int k = 0; k < 2; ++k) {
      const uint first = codes[2 * k][slot].w[w], second = codes[2 * k + 1][slot].w[w];
      a.v[2 * k] = pair_at<F>(merge_low(first, second), i, book);
      a.v[2 * k + 1] = whole ? pair_at<F>(merge_low(first, second), i + Cut::pairs, book)
                             : pair_at<F>(merge_high(first, second), i, book);
    }
    return a;
  }
};
template <typename F, typename N>
struct LaneValues<Scaled<F, N>> {
  typedef Decoder<F, 8, Scaled<F, N>::kind> By;
  KV_CONST bool early = Slices<Scaled<F, N>, 8>::units == 1 && sizeof(typename By::Raw) <= 24;
  typename By::Raw raw[4];
  Pair pairs[2][By::run];  // of two tokens

  KV_FUNC void begin(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int row) {
    if (early) load(rows, at, 0, row);
  }
  KV_FUNC void fetch(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int u, int row,
                     KV_SHARED(uint) book) {
    if (!early) load(rows, at, u, row);
    KV_UNROLL for (int k = 0; k < 2; ++k) By::decode_two(raw[2 * k], raw[2 * k + 1], u, row, book, pairs[k]);
  }
  KV_FUNC void load(KV_THREAD const Rows<Scaled<F, N>>& rows, KV_THREAD const Tokens& at, int u, int row) {
    KV_UNROLL for (int i = 0; i < 4; ++i) By::load(rows, at.far[i], u, row, raw[i]);
  }
  KV_FUNC TileA tile(int, int w, int i, KV_SHARED(uint)) const {
    TileA a;
    KV_UNROLL for (int k = 0; k < 2; ++k) {
      a.v[2 * k] = pairs[k][2 * (w * By::pairs + i)];
      a.v[2 * k + 1] = pairs[k][2 * (w * By::pairs + i) + 1];
    }
    return a;
  }
};

// A run of one token as float32 numbers.
template <typename F, int SHARERS>
struct LaneFloats {
  Run<Slices<F, SHARERS>::words> codes;

  KV_FUNC void load(KV_THREAD const Rows<F>& rows, int token, int u, int member, KV_SHARED(uint)) {
    load_slice<F, SHARERS>(rows.codes + token * F::row_bytes, u, member, codes);
  }
  KV_FUNC void pair(int w, int i, KV_SHARED(uint) book, KV_THREAD float& low, KV_THREAD float& high) const {
    floats_at<F>(codes.w[w], i, book, low, high);
  }
};
template <typename F, typename N, int SHARERS>
struct LaneFloats<Scaled<F, N>, SHARERS> {
  typedef Decoder<F, SHARERS, Scaled<F, N>::kind> By;
  N numbers[By::run / 2];

  KV_FUNC void load(KV_THREAD const Rows<Scaled<F, N>>& rows, int token, int u, int member, KV_SHARED(uint) book) {
    typename By::Raw raw;
    By::load(rows, token, u, member, raw);
    By::template decode<N>(raw, u, member, book, numbers);
  }
  KV_FUNC void pair(int w, int i, KV_SHARED(uint), KV_THREAD float& low, KV_THREAD float& high) const {
    low = numbers[w * By::pairs + i].low;
    high = numbers[w * By::pairs + i].high;
  }
};

}  // namespace kv
