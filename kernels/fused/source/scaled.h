// Which formats decode their numbers with their scales, and how that looks to what computes with them.

namespace kv {

// Fills the table that a decoder reads, if any.
template <typename F, typename N, int KIND>
struct DecoderTable {
  template <typename B>
  static KV_FUNC void fill(KV_DEVICE(const B), KV_SHARED(uint), int, int) {}
};
template <typename F, typename N>
struct DecoderTable<F, N, DECODES_POLAR> {
  // `angles` holds cosine and sine of every bin, level after level.
  template <typename B>
  static KV_FUNC void fill(KV_DEVICE(const B) angles, KV_SHARED(uint) table, int index, int step) {
    const int first = 1 << F::bits, upper = 6 << (F::bits - 2);
    for (int i = index; i < first; i += step)
      Numbers<N>::write(table, i, to_float(angles[2 * i]), to_float(angles[2 * i + 1]));
    for (int i = index; i < upper; i += step)
      table[Numbers<N>::words * first + i] = float_bits(to_float(angles[2 * first + i]));
  }
};

// How a kernel decodes F: Scaled<F, N> if its numbers come with their scales, in N, else F itself. Such a type looks like
// a format of plain numbers to what computes with it. MATRIX as in Decode: tiles of one float16 term may round.
template <typename F, typename N>
struct Scaled {
  KV_CONST int kind = F::meta == META_CHANNELS ? DECODES_CHANNELS
                      : F::polar               ? DECODES_POLAR
                      : F::header > 0          ? DECODES_BLOCKS
                                               : DECODES_SMALL;
  typedef F Stored;
  typedef N Number;
  typedef typename F::Scale Scale;
  KV_CONST int bits = F::bits, dim = F::dim, group = F::dim, groups = 1, meta = META_NONE, header = F::header;
  KV_CONST int row_bytes = F::row_bytes, center = 0, fields = F::fields, scale_kind = F::scale_kind;
  KV_CONST bool dense = false, book = kind == DECODES_POLAR;
  KV_CONST int book_copies = 1;
  KV_CONST int book_entries = Decoder<F, 4, kind>::table;
};
// The same format with KV_BOOK_COPIES of every pair of its codebook: lanes that look different pairs up meet in fewer banks of
// threadgroup memory.
template <typename F>
struct Copied : F {
  KV_CONST int book_copies = KV_BOOK_COPIES, book_entries = F::book_entries * KV_BOOK_COPIES;
};
enum Way { AS_IT_IS, WITH_COPIES, WITH_SCALES };
template <typename F, int MATRIX, int WAY>
struct Choice {
  typedef F Type;
};
template <typename F, int MATRIX>
struct Choice<F, MATRIX, WITH_COPIES> {
  typedef Copied<F> Type;
};
template <typename F, int MATRIX>
struct Choice<F, MATRIX, WITH_SCALES> {
  typedef Scaled<F, Pair> Type;
};
template <typename F>
struct Choice<F, 0, WITH_SCALES> {
  typedef Scaled<F, Two> Type;
};
// GQA as in Decode: copies take threadgroup memory that more heads, and larger ones, need.
template <typename F, int MATRIX, int GQA>
struct Chosen : Choice<F, MATRIX,
                       F::meta == META_CHANNELS || F::polar || (MATRIX == 1 && F::small)                ? WITH_SCALES
                       : MATRIX == 1 && F::book && F::bits == 4 && F::dim <= 128 && GQA <= 8 ? WITH_COPIES
                                                                                             : AS_IT_IS> {};

template <typename F, typename N, int SHARERS>
struct Slices<Scaled<F, N>, SHARERS> {
  typedef Decoder<F, SHARERS, Scaled<F, N>::kind> By;
  KV_CONST int run = By::run, unit = By::unit, units = F::dim / unit, units_per_group = units;
  KV_CONST int words = By::words, codes = By::codes, pairs = By::pairs;

  static KV_FUNC constexpr int channel(int position) { return By::channel(position); }
  static KV_FUNC constexpr float gain() { return By::gain(); }
};

}  // namespace kv
